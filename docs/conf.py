"""Sphinx configuration; warnings are errors in CI."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "ext"))

import wslax

project = "wslax"
author = "The wslax authors"
copyright = "2026, the wslax authors"
version = release = wslax.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "myst_nb",
    "docstrings",
    "public_names",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "wslax"
html_static_path = ["_static"]
html_css_files = ["wslax.css"]
html_theme_options = {"navigation_with_keys": True}
toc_object_entries_show_parents = "hide"

# The namespaces whose public names must all be documented.
public_namespaces = [
    "wslax",
    *(f"wslax.{name}" for name in wslax._MODULES),
    *(f"wslax.numerics.{name}" for name in ("threshold", "streaming", "lowrank", "assignment")),
    "wslax.grow.supernet",
    "wslax.errors",
    "wslax.recipes",
    "wslax.report",
]
