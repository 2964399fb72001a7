"""A real browser without a window, and pages in it that may not complain of anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

# Debian calls it chromium; Playwright's own browsers need a download.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Tests read canvases that the page only paints; and where other tests start containers, networks come and go.
OF_TESTS = ("Canvas2D: Multiple readback operations", "net::ERR_NETWORK_CHANGED")

Point = tuple[float, float]


def find() -> str | None:
    """The browser's program, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser(program: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Root may not use Chromium's sandbox, and a container's /dev/shm is small.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


class Visit:
    """A page that was opened, and what it complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.expected: tuple[str, ...] = ()  # besides OF_TESTS: parts of complaints that a test provokes
        page.on("console", lambda message: self.complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def check(self) -> None:
        unexpected = [each for each in self.complaints if not any(part in each for part in (*OF_TESTS, *self.expected))]
        assert unexpected == [], unexpected


def open_visit(browser: Browser, url: str, **options: Any) -> Visit:
    """Open the page at `url`; `options` are those of a browser context, in English unless they say otherwise."""
    options = {"locale": "en-GB", "viewport": {"width": 1280, "height": 800}, **options}
    page = browser.new_context(**options).new_page()
    visit = Visit(page)
    page.set_default_timeout(60_000)  # also on a machine that is busy with other things
    page.goto(url)
    page.wait_for_selector("#facts dd", state="attached")
    return visit


def draw(page: Page, strokes: Sequence[Sequence[Point]], *, hold: bool = False) -> None:
    """Draw with the mouse; points from 0 to 1. `hold`: the button stays down at the end."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    for number, stroke in enumerate(strokes, 1):
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        if not (hold and number == len(strokes)):
            page.mouse.up()
