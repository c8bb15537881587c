"""The documentation site: `scripts/docs` builds it from this repository alone, without a network.

Pages are plain Markdown that reads well in the repository too. What they cannot hold is made while building: the
table of contents (from the sections of docs/index.md), and what stands for `<!-- generated: NAME -->`.
"""

import sys
import tomllib
from pathlib import Path

from pygments.lexers import PythonLexer
from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
sys.path[:0] = [str(REPOSITORY / "src"), str(HERE)]

import generated  # noqa: E402

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "kandinsky"
author = "The kandinsky-diffusion contributors"
project_copyright = author
release = version = PROJECT["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "benchmarks/RESULTS.md",
    "examples/images/README.md",
    "recipes/emoji/README.md",
    "src/kandinsky/assets/emoji/README.md",
]
exclude_patterns = ["build", "dist", "runs", ".*", "**/.*", "tests"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Text in single backticks of docstrings is code.
default_role = "code"
nitpicky = False

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"kandinsky {release}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}


def setup(app: Sphinx) -> None:
    """Fills pages in while they are read, and leads from the top of the site to its index."""
    # Python that the tests run where MindSpore is.
    app.add_lexer("mindspore", PythonLexer)
    app.connect("source-read", generated.fill)
    app.connect("build-finished", generated.redirect)
