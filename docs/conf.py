"""The site: ``make docs``. Sphinx with MyST, which reads the same Markdown as GitHub shows."""

import re
from pathlib import Path

from sphinx.application import Sphinx

from dlenv import __version__

project = "dlenv"
author = "the authors of dlenv"
version = release = __version__
language = "en"

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"dlenv {release}"
html_copy_source = False
html_show_sphinx = False


def _link_outside(app: Sphinx, name: str, source: list[str]) -> None:
    """Markdown that lies outside of this folder is no page of the site: link to it as a file."""
    here = Path(app.srcdir, name).parent

    def link(found: re.Match[str]) -> str:
        target = (here / found[1]).resolve()
        return found[0] if target.is_relative_to(app.srcdir) else f"](path:{found[1]})"

    source[0] = re.sub(r"\]\(((?:\.\./)+[^)#:]+\.md)\)", link, source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _link_outside)
