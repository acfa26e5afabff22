# `make demo` and `make test` set up everything they need; the other targets build on them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo
export MPLBACKEND := Agg
# Python keeps what it has compiled, wherever it was told not to: hundreds of processes import the same libraries.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test check check-live prove prove-ecosystem bench clean
help:
	@echo "make demo     build a small store from the synthetic planet, inspect it, pretrain, evaluate"
	@echo "make test     lint, type-check and test everything"
	@echo "make check    lint and type-check only"
	@echo "make check-live  compare Earth Engine itself with the emulator; needs an account"
	@echo "make prove    the long forms of the proofs"
	@echo "make prove-ecosystem  what other people's programs make of it; each in an environment of its own"
	@echo "make bench    all benchmarks; make bench-NAME runs tests/benchmarks/bench_NAME.py"
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
	$(BIN)/mmearth-train evaluate $(DEMO)/run --task store:biome
	@echo
	@echo "$(DEMO)/planet.zarr  the store: 256 synthetic tiles (mmearth-data inspect, xarray.open_zarr)"
	@echo "$(DEMO)/tile.png     all modalities of one tile"
	@echo "$(DEMO)/map.png      where the tiles lie"
	@echo "$(DEMO)/run          the pretrained model and its logs"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2

# One thread of arithmetic per process: two processes test at a time, each a file. The longest files come first (conftest),
# so that neither process waits for the other at the end.
test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not clients and not ecosystem"

check-live: $(READY)
	@$(BIN)/python tests/live/check_live.py

prove: $(READY) $(VENV)/.azurite
	$(BIN)/pytest -m slow

# Other people's Earth Engine clients, and libraries of models, pull much that nothing else here needs; clients need no model.
EXTRAS_clients := dev,clients
EXTRAS_ecosystem := model,dev,ecosystem
prove-ecosystem: $(VENV)-clients/.ready $(VENV)-ecosystem/.ready
	$(VENV)-clients/bin/pytest -m clients $(wildcard tests/integration/test_clients_*.py)
	$(VENV)-ecosystem/bin/pytest -m ecosystem

$(VENV)-%/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-$*/bin/python -m pip install --quiet --no-compile -c constraints.txt -e ".[$(EXTRAS_$*)]"
	@touch $@

# Azure's own emulator of its storage, for az://; without npm the other proofs run, and that one fails.
$(VENV)/.azurite: $(READY)
	-npm install --silent --no-fund --no-audit --prefix $(VENV)/azurite azurite@3.37.0 && touch $@

BENCHES := $(patsubst tests/benchmarks/bench_%.py,bench-%,$(sort $(wildcard tests/benchmarks/bench_*.py)))
.PHONY: $(BENCHES)
bench: $(BENCHES)
$(BENCHES): bench-%: $(READY)
	$(BIN)/python tests/benchmarks/bench_$*.py

bench-loader: $(VENV)/.bench
$(VENV)/.bench: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[model,bench]"
	$(BIN)/python -m pip install --quiet --no-deps "litdata>=0.2.60"
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO)
