"""Configuration of the documentation: `make docs` builds it, without a network and with warnings as errors."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(ROOT / "tests")]

project = "MMEarth toolkit"
author = "MMEarth toolkit maintainers"
project_copyright = author
release = version = version_of("mmearth")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click.ext",
    "sphinx_copybutton",
    "sphinx_design",
    "from_code",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
root_doc = "index"
language = "en"
smartquotes = False  # they would make a dash of the hyphens of options

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = "off"  # a test of `make prove` executes the notebooks

default_role = "autolink_or_code"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_display_short_literal_types = True

# References of docstrings to other libraries stay text: the build has no network to look their pages up.
nitpick_ignore_regex = [(r"py:.*", r".*")]

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
