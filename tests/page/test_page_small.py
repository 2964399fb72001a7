"""The page on small screens and in large letters: nothing is cut off, everything can be hit with a finger."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

import pytest
from page_service import ROOT

if TYPE_CHECKING:
    from page_browser import Visit
    from playwright.sync_api import FloatRect, Locator, Page

Open = Callable[..., "Visit"]
pytestmark = pytest.mark.slow  # each opens the page in a browser

MODELS = ("mnist-lenet", "spiral-mlp")
FINGER = {"has_touch": True, "is_mobile": True}
TARGET = 24  # pixels each way: WCAG 2.2, success criterion 2.5.8

# What goes past the right edge of the window or, being shrunk, of its own box; a wide table may be scrolled by itself.
PAST = """() => [...document.querySelectorAll("body *")].filter((each) => {
  if (each.closest(".hidden, .scroll, .skip") || each.closest("option, svg")) return false;
  const box = each.getBoundingClientRect();
  const cut = getComputedStyle(each).overflowX === "visible" && each.scrollWidth > each.clientWidth + 1;
  return box.width && (box.right > innerWidth + 0.5 || (cut && each.matches("button, p, dd, dt, h1, h2, h3, li")));
}).map((each) => `${each.tagName} #${each.id} .${each.className} ${each.textContent.slice(0, 30)}`)"""

# Buttons, links and fields that are seen, with what is hit: of a checkbox or a hidden file field, its label.
TARGETS = """() => [...document.querySelectorAll("a, button, input, select")].map((each) => {
  const hit = each.matches("[type=checkbox], [type=file]") ? each.closest("label") : each;
  const { width, height } = hit.getBoundingClientRect();
  return [hit.id || hit.textContent.trim() || hit.outerHTML, width, height, each.matches(".skip:not(:focus)")];
}).filter(([, width, , unseen]) => width && !unseen)"""


def small(width: int, height: int = 844) -> dict[str, object]:
    return {"viewport": {"width": width, "height": height}, **FINGER}


def painted(page: Page) -> None:
    page.wait_for_selector(".plane.done >> nth=1")


def box(place: Locator) -> FloatRect:
    found = place.bounding_box()
    assert found is not None
    return found


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("model", MODELS)
def test_letters_of_twice_the_size_need_no_scrolling_sideways(visit: Open, model: str, language: str) -> None:
    page = visit(f"?model={model}", locale=language, **small(390)).page
    if model == "mnist-lenet":
        page.click("#examples button:nth-child(4)")
        page.wait_for_function("() => document.getElementById('label').textContent === '3'")
        page.click("#burst")
        page.wait_for_selector(".sizes")
    else:
        painted(page)
    page.wait_for_selector("#histogram ul")
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(PAST) == []
    # The same by the browser's own setting, which the widths in media queries follow too.
    page.evaluate("document.documentElement.style.fontSize = ''")
    page.context.new_cdp_session(page).send("Page.setFontSizes", {"fontSizes": {"standard": 32, "fixed": 26}})
    page.wait_for_function("() => getComputedStyle(document.documentElement).fontSize === '32px'")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(PAST) == []


@pytest.mark.parametrize("size", [(844, 390), (667, 375), (568, 320)])
def test_the_whole_pad_is_seen_on_a_phone_held_sideways(visit: Open, size: tuple[int, int]) -> None:
    page = visit(**small(*size)).page

    def check(place: Locator) -> None:
        place.evaluate("each => each.scrollIntoView({block: 'center', behavior: 'instant'})")
        seen = box(place)
        assert seen["y"] >= 0
        assert seen["y"] + seen["height"] <= size[1]
        assert seen["width"] == pytest.approx(seen["height"], abs=1)
        assert seen["width"] > 200  # and large enough to draw on
        assert seen["x"] > 0  # beside it a finger scrolls the page
        assert seen["x"] + seen["width"] < size[0]

    check(page.locator("#paper"))
    page.select_option("#model", "spiral-mlp")
    painted(page)
    check(page.locator(".plane canvas").first)


@pytest.mark.parametrize("width", [320, 360, 390])
def test_figures_fit_their_cells_on_a_narrow_phone(visit: Open, width: int) -> None:
    page = visit(**small(width)).page
    cells = page.locator(".confusion th, .confusion td")
    assert "100" in cells.all_inner_texts()
    wider = "all => all.filter(each => each.scrollWidth > each.clientWidth).map(each => each.textContent)"
    assert cells.evaluate_all(wider) == []
    assert page.locator("#confusion .scroll").evaluate("each => each.scrollWidth - each.clientWidth") == 0
    assert page.evaluate(PAST) == []


@pytest.mark.parametrize("width", [320, 390])
def test_names_of_batch_sizes_leave_the_axis_straight(visit: Open, width: int) -> None:
    bounds = [2**power for power in range(13)]
    visited = visit(**small(width))
    page = visited.page
    readings = count()

    def metrics() -> str:
        """All batches had from 129 to 256 rows, and each reading finds one more."""
        done = next(readings)
        of = [f'dlenv_batch_rows_bucket{{le="{bound}"}} {done if bound >= 256 else 0}' for bound in bounds]
        return "\n".join(["dlenv_ready 1", *of, f'dlenv_batch_rows_bucket{{le="+Inf"}} {done}'])

    page.route("**/metrics", lambda route: route.fulfill(body=metrics()))
    page.reload()
    page.wait_for_selector("#histogram ul")
    names = page.locator("#histogram .name")
    assert names.all_inner_texts()[-3:] == ["33\u201364", "65\u2013128", "129\u2013256"]
    cut, axis = names.evaluate_all(
        """all => {
          const boxes = all.map((each) => each.getBoundingClientRect());
          const across = new Set(boxes.map((box) => box.top)).size === 1;
          const edges = boxes.map((box) => (across ? box.top : box.right));
          return [all.filter((each) => each.scrollWidth > each.clientWidth + 1).length, [...new Set(edges)]];
        }"""
    )
    assert cut == 0
    assert len(axis) == 1
    longest = box(page.locator("#histogram .column").last)
    chart = box(page.locator("#histogram"))
    assert max(longest["width"], longest["height"]) > 90
    assert longest["x"] + longest["width"] <= chart["x"] + chart["width"]


def test_planes_are_side_by_side_where_their_bars_can_be_read(visit: Open) -> None:
    page = visit("?model=spiral-mlp", **small(390)).page
    painted(page)
    for width, beside in ((390, True), (320, False)):
        page.set_viewport_size({"width": width, "height": 844})
        page.wait_for_function("width => innerWidth === width", arg=width)
        first, second = (box(page.locator(".plane").nth(number)) for number in (0, 1))
        assert (first["y"] == second["y"]) == beside
        assert all(box(track)["width"] > 30 for track in page.locator(".plane .track").all())


@pytest.mark.parametrize("model", MODELS)
def test_everything_that_is_pressed_is_large_enough_for_a_finger(visit: Open, model: str) -> None:
    page = visit(f"?model={model}", **small(320)).page
    page.click("#key-open")
    if model == "mnist-lenet":
        page.set_input_files("#file", ROOT / "tests/data/seven.png")
        page.wait_for_selector("#choices:not([hidden])")
    else:
        painted(page)
    targets = page.evaluate(TARGETS)
    names = {name for name, *_ in targets}
    assert {"key-value", "model", "Live", "API", "All of the interface"} <= names
    assert {"0", "9"} <= names if model == "mnist-lenet" else {"point-x", "point-y"} <= names
    assert [each for each in targets if min(each[1:3]) < TARGET] == []
