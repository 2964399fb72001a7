"""The pictures of the page for the README, made again: ``python tests/page/screenshots.py``.

They depend on the fonts of the machine; fonts-inter and fonts-noto-cjk were there for those that are kept.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from page_browser import Visit

FOLDER = Path(__file__).parents[2] / "docs/images"
NAMES = ("page-light.png", "page-dark.png", "page-phone.png")
COLOURS = 256


def take(visit: Callable[..., Visit], folder: Path) -> None:
    """Write all of them into a folder."""
    page = visit(color_scheme="light").page
    page.click("#examples button:nth-child(4)")
    page.wait_for_function("() => document.getElementById('label').textContent === '3'")
    page.wait_for_timeout(800)
    page.mouse.move(0, 0)
    _save(page.screenshot(), folder / NAMES[0])
    page = visit("?model=spiral-mlp", color_scheme="dark").page
    page.wait_for_selector(".plane.done >> nth=1")
    page.wait_for_timeout(300)
    _save(page.screenshot(), folder / NAMES[1])
    page = visit(locale="zh-CN", viewport={"width": 390, "height": 844}, device_scale_factor=2).page
    page.click("#examples button:nth-child(6)")
    page.wait_for_function("() => document.getElementById('label').textContent === '5'")
    page.wait_for_timeout(800)
    _save(page.screenshot(), folder / NAMES[2])


def _save(content: bytes, path: Path) -> None:
    with Image.open(io.BytesIO(content)) as picture:
        few = picture.convert("RGB").quantize(COLOURS, kmeans=4, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


def main() -> int:
    """Serve, visit, take."""
    from page_browser import browser, find, open_visit
    from page_service import serve

    program = find()
    if program is None:
        print("there is no Chromium; apt-get install chromium", file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root, serve(Path(root)) as url, browser(program) as started:
        take(lambda query="", **options: open_visit(started, f"{url}/{query}", **options), FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main())
