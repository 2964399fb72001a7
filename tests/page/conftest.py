"""One service and one browser for all tests of the page."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from page_service import serve

if TYPE_CHECKING:
    from page_browser import Visit
    from playwright.sync_api import Browser

Open = Callable[..., "Visit"]


@pytest.fixture(scope="session")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("page")) as url:
        yield url


@pytest.fixture(scope="module")  # not longer: Playwright runs an event loop in this thread as long as it is open
def chromium() -> Iterator[Browser]:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("the page is tested with playwright, which is not installed: pip install playwright")
    import page_browser

    program = page_browser.find()
    if program is None:
        pytest.skip("the page is tested in Chromium, and there is none: apt-get install chromium")
    with page_browser.browser(program) as started:
        yield started


@pytest.fixture
def visit(chromium: Browser, page_url: str) -> Iterator[Open]:
    """Open the page: `visit("?model=spiral-mlp", color_scheme="dark")`; it may complain of nothing."""
    import page_browser

    visits = []

    def start(query: str = "", *, url: str = page_url, **options: Any) -> Visit:
        visits.append(page_browser.open_visit(chromium, f"{url}/{query}", **options))
        return visits[-1]

    yield start
    for each in visits:
        each.page.context.close()
        each.check()
