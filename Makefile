# `make demo` and `make test` set up everything they need; the other targets build on them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo
export MPLBACKEND := Agg
# Python keeps compiled bytecode even where the environment disables it: hundreds of processes import the same
# libraries.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test tests check lint types check-live prove prove-ecosystem prove-newest docs bench constraints clean
help:
	@echo "make demo     build a small store from the synthetic planet, inspect it, pretrain, evaluate, write a report"
	@echo "make test     lint, type-check and test everything"
	@echo "make check    lint and type-check only"
	@echo "make check-live  compare Earth Engine itself with the emulator; needs an account"
	@echo "make prove    the long forms of the tests"
	@echo "make prove-ecosystem  test with third-party libraries, and with the newest releases of the dependencies,"
	@echo "              each in a separate environment (make prove-newest: the latter alone)"
	@echo "make docs     build the documentation into build/docs, offline, and check its spelling"
	@echo "make bench    all benchmarks; make bench-NAME runs tests/benchmarks/bench_NAME.py"
	@echo "make real-pixels  pretrain on real images and compare (hours; resumes): tests/benchmarks/real_pixels.py"
	@echo "make constraints  pin the dependencies of pyproject.toml in constraints.txt; UPGRADE=--upgrade pins the newest"
	@echo "make clean    remove the virtual environment and the demo"

# Packages are compiled as they are imported: most of their files never are.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[model,dev]"
	@touch $@

# Without biome and eco_region, so that probing the biome is fair.
demo: $(READY)
	$(BIN)/mmearth-data build --recipe demo --out $(DEMO)/planet.zarr
	$(BIN)/mmearth-data inspect $(DEMO)/planet.zarr
	$(BIN)/mmearth-data inspect $(DEMO)/planet.zarr --figure $(DEMO)/tile.png --map $(DEMO)/map.png
	$(BIN)/mmearth-train pretrain $(DEMO)/planet.zarr --recipe demo --exclude biome,eco_region --out $(DEMO)/run
	$(BIN)/mmearth-train evaluate $(DEMO)/run --task store:biome --out $(DEMO)/probes
	$(BIN)/mmearth-data inspect $(DEMO)/planet.zarr --html $(DEMO)/store.html
	$(BIN)/mmearth-train report $(DEMO)/run $(DEMO)/probes --store-page $(DEMO)/store.html --html $(DEMO)/report.html
	@echo
	@echo "$(DEMO)/planet.zarr  the store: 256 synthetic tiles (mmearth-data inspect, xarray.open_zarr)"
	@echo "$(DEMO)/tile.png     all modalities of one tile"
	@echo "$(DEMO)/map.png      locations of the tiles"
	@echo "$(DEMO)/run          the pretrained model and its logs"
	@echo "$(DEMO)/probes       results of the evaluation"
	@echo "$(DEMO)/store.html   report of the store; the report of the run (last line) links to it"
	@echo "$(DEMO)/report.html"

check: lint types

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	nice $(BIN)/mypy --num-workers 2

QUICK := not slow and not clients and not ecosystem and not browser

# Types are checked in parallel with the tests, which spend part of their time waiting for servers and for one another.
test: lint
	@$(MAKE) --no-print-directory -j 2 tests types

# One thread of arithmetic per process: two processes test at a time, each a file. The longest files come first (conftest),
# so that neither process waits for the other at the end.
tests: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$(QUICK)"

check-live: $(READY)
	@$(BIN)/python tests/live/check_live.py

prove: $(READY) $(VENV)/.azurite $(VENV)-docs/.ready
	$(BIN)/pytest -m slow

# Other people's Earth Engine clients, and libraries of models, pull much that nothing else here needs; clients need no model.
# torchgeo-bench comes without its dependencies (which the extra names): it asks for a newer torchgeo and a newer Python than
# these tests use, and needs neither.
EXTRAS_clients := dev,clients
EXTRAS_ecosystem := model,dev,ecosystem
EXTRAS_browser := model,dev,browser
prove-ecosystem: $(VENV)-clients/.ready $(VENV)-ecosystem/.ready $(VENV)-browser/.ready
	@for name in chromium chromium-browser google-chrome; do command -v $$name > /dev/null && exit 0; done; \
		echo "expected a browser for the tests of pages, found none; install chromium (Debian: apt-get install chromium)"; exit 1
	$(VENV)-browser/bin/pytest -m browser $(wildcard tests/integration/test_*_browser.py)
	$(VENV)-clients/bin/pytest -m clients $(wildcard tests/integration/test_clients_*.py)
	$(VENV)-ecosystem/bin/pytest -m ecosystem $(wildcard tests/integration/test_ecosystem_*.py)
	$(MAKE) prove-newest

# The newest release of everything, without pins, on a newer Python: zarr-python above all, which is pinned to 3.1.6, the
# last release for Python 3.11. There may be no torch for that Python yet: tests that need it are left out by their path.
EXTRAS_newest := dev
PYTHON_newest = $(PYTHON_NEWEST)
PYTHON_NEWEST ?= $(or $(shell for python in python3.13 python3.12; do $$python -c "" 2>&- && echo $$python && break; done),\
	$(error expected python3.13 or python3.12 on the PATH, found neither; name one with PYTHON_NEWEST=...))
NEWEST_TESTS = tests/unit/data $(filter-out tests/integration/test_clients_% tests/integration/test_ecosystem_%, \
	$(shell grep -LE "mmearth_model|mmearth-train|torch|command_world" tests/integration/test_*.py tests/contract/test_*.py))
prove-newest: $(VENV)-newest/.ready
	@$(VENV)-newest/bin/python -c "import sys, zarr; print('zarr-python', zarr.__version__, 'on Python', sys.version)"
	$(VENV)-newest/bin/pytest -m "$(QUICK)" $(NEWEST_TESTS)

# The documentation: warnings are errors, and nothing is looked up on the network.
EXTRAS_docs := model,report,docs
DOCS ?= build/docs
docs: $(VENV)-docs/.ready
	$(VENV)-docs/bin/codespell README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff docs catalog/README.md pipelines/README.md \
		mmearth_data mmearth_model
	$(VENV)-docs/bin/sphinx-build -q -W --keep-going -n -b html docs $(DOCS)
	@echo "$(DOCS)/index.html"

$(VENV)-%/.ready: pyproject.toml constraints.txt
	$(or $(PYTHON_$*),$(PYTHON)) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-$*/bin/python -m pip install --quiet --no-compile \
		$(if $(filter newest,$*),,-c constraints.txt) -e ".[$(EXTRAS_$*)]"
	$(if $(filter ecosystem,$*),$(VENV)-$*/bin/python -m pip install --quiet --no-deps --ignore-requires-python \
		"torchgeo-bench==0.4.0")
	@touch $@

# One file for every Python and system, made by uv. A pin stays as long as it fits, so that a new requirement changes
# nothing else. PyTorch itself asks for one release of CUDA's libraries, on the machines that have a use for them.
UPGRADE ?=
constraints:
	$(PYTHON) -m venv $(VENV)-uv
	$(VENV)-uv/bin/python -m pip install --quiet "uv>=0.8"
	cp constraints.txt $(VENV)-uv/constraints.txt
	$(VENV)-uv/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate $(UPGRADE) \
		--custom-compile-command "make constraints" --output-file $(VENV)-uv/constraints.txt pyproject.toml
	grep -vE "^(cuda|nvidia|triton)\b" $(VENV)-uv/constraints.txt > constraints.txt

# Azure's own emulator of its storage, for az://; without npm the other proofs run, and that one fails.
$(VENV)/.azurite: $(READY)
	-npm install --silent --no-fund --no-audit --prefix $(VENV)/azurite azurite@3.37.0 && touch $@

BENCHES := $(patsubst tests/benchmarks/bench_%.py,bench-%,$(sort $(wildcard tests/benchmarks/bench_*.py)))
.PHONY: $(BENCHES)
bench: $(BENCHES)
$(BENCHES): bench-%: $(READY)
	$(BIN)/python tests/benchmarks/bench_$*.py

# Hours of two cores, so it is no part of `bench`; whatever is finished in build/real-pixels is kept.
.PHONY: real-pixels
real-pixels: $(READY)
	$(BIN)/python tests/benchmarks/real_pixels.py

bench-loader bench-icechunk: $(VENV)/.bench
$(VENV)/.bench: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[model,bench]"
	$(BIN)/python -m pip install --quiet --no-deps "litdata>=0.2.60"
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-* $(DEMO)
