# Configuration of the documentation, https://www.sphinx-doc.org/en/master/usage/configuration.html
import logging
import shutil
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

from sphinx.ext.napoleon.docstring import GoogleDocstring

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))
_project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = _project["name"]
author = _project["authors"][0]["name"]
copyright = f"2026, {author}"
version = release = _project["version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",  # after napoleon
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
default_role = "literal"
templates_path = ["_templates"]

# Pages and notebooks: the notebooks are committed with their outputs and are not run here.
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
shutil.copytree(ROOT / "notebooks", ROOT / "docs/notebooks", dirs_exist_ok=True)
nb_execution_mode = "off"
nb_merge_streams = True

# API
autosummary_generate = True
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False
# napoleon takes what stands before a colon in the text of an attribute for its type
GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end
typehints_defaults = "comma"
always_use_bars_union = True
# The pages build without the heavy dependencies; whatever is installed is imported for real.
autodoc_mock_imports = [
    name
    for name in (
        "accelerate",
        "anndata",
        "matplotlib",
        "mudata",
        "numpy",
        "pandas",
        "peft",
        "pydantic",
        "pydantic_settings",
        "safetensors",
        "scanpy",
        "scipy",
        "sklearn",
        "tokenizers",
        "torch",
        "tqdm",
        "transformers",
        "typer",
        "umap",
    )
    if find_spec(name) is None
]

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
    "matplotlib": ("https://matplotlib.org/stable/", None),
    "mudata": ("https://mudata.readthedocs.io/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3/", None),
    "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
    "scipy": ("https://docs.scipy.org/doc/scipy/", None),
    "torch": ("https://docs.pytorch.org/docs/stable/", None),
}
intersphinx_timeout = 10
# Warnings are errors, but the pages build without a network too, and then without links to other packages.
logging.getLogger("sphinx.sphinx.ext.intersphinx").addFilter(
    lambda record: not str(record.msg).startswith("failed to reach any of the inventories")
)

# Every name of this package is a link to its page; other packages are not, where their list of names is not at hand.
nitpicky = True
_others = (
    "accelerate|anndata|collections|matplotlib|mudata|numpy|pandas|pathlib|rapidfuzz|scipy|sklearn|torch|transformers"
)
nitpick_ignore_regex = [
    (r"py:.*", rf"({_others}|typing)(\..*)?"),
    # what a public function takes or gives, and nobody makes by hand
    (r"py:class", r"bioverse_sc\..*\._\w+\.\w+"),
    # of tuple[str, ...]
    (r"py:data", "Ellipsis"),
]

html_theme = "sphinx_book_theme"
html_title = project
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.png"
html_static_path = ["_static"]
html_theme_options = {"show_toc_level": 2}
