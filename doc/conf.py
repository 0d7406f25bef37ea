# SPDX-License-Identifier: Apache-2.0
"""Configuration of the documentation; see https://www.sphinx-doc.org/en/master/usage/configuration.html."""

import importlib.metadata
import importlib.util
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "_ext"))

project = "lazy_engine"
copyright = "the lazy_engine authors"
release = version = importlib.metadata.version("lazy_engine")

extensions = ["sphinx.ext.autodoc", "code_tables", "state_diagram"]
exclude_patterns = ["_ext"]
default_role = "code"

# Without the theme the pages still build, only plainer.
html_theme = "furo" if importlib.util.find_spec("furo") else "alabaster"
html_title = f"lazy_engine {release}"
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
