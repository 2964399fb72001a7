"""A model that learned without labels first: the page shows what it gives back beside what it sees."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import torch
from page_service import ROOT, serve

from dlenv_models.data import load
from dlenv_models.evaluation import measure
from dlenv_models.manifest import Training
from dlenv_models.repository import Repository
from dlenv_models.training import Options, train

if TYPE_CHECKING:
    from page_browser import Visit
    from playwright.sync_api import Page

Open = Callable[..., "Visit"]
pytestmark = pytest.mark.slow  # opens a browser, and trains a model for some seconds

SEVEN = ROOT / "tests/data/seven.png"


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory, chromium: object) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("able")
    torch.set_num_threads(1)
    dataset = load("mnist5k")
    trained = train("autoencoder", dataset, Options(pretrain=3, epochs=1, freeze=True), {"hidden": [64]})
    Repository(folder, create=True).publish(
        "mnist-back",
        trained.module,
        architecture=trained.architecture,
        classes=dataset.classes,
        preprocessing=trained.preprocessing,
        data=dataset.info(),
        metrics=measure(trained.module, trained.preprocessing, dataset.test, len(dataset.classes)),
        training=Training("made by a test", 0, "2026-01-01T00:00:00Z", torch.__version__, {}),
    )
    with serve(folder, "mnist-back", "mnist-mlp") as url:
        yield url


def pixels(page: Page, name: str) -> npt.NDArray[np.float64]:
    values = page.evaluate(
        "name => { const canvas = document.getElementById(name);"
        "return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]; }",
        name,
    )
    flat = np.array(values, float).reshape(-1, 4)
    side = math.isqrt(len(flat))
    return flat.reshape(side, side, 4)[..., 0]


def label(page: Page) -> str:
    return page.get_attribute("#made", "aria-label") or ""


def test_it_is_shown_beside_what_the_model_sees(visit: Open, able: str) -> None:
    page = visit("?model=mnist-back", url=able).page
    page.wait_for_selector("#made-figure:not([hidden])")
    assert label(page) == "What the model gives back: nothing yet"
    assert pixels(page, "made").max() == 0
    page.set_input_files("#file", SEVEN)
    page.wait_for_function("() => document.getElementById('made').getAttribute('aria-label').includes('28 by 28')")
    assert page.locator("#made").get_attribute("role") == "img"
    path = "/predict/mnist-back?reconstruct=true"
    told = httpx.post(able + path, content=SEVEN.read_bytes(), headers={"content-type": "image/png"}).json()
    made, sees = pixels(page, "made"), pixels(page, "seen")
    np.testing.assert_allclose(made, told["predictions"][0]["reconstruction"][0], rtol=0, atol=0.51)
    assert np.corrcoef(made.ravel(), sees.ravel())[0, 1] > 0.5  # it is this seven, more or less
    assert path in page.evaluate("document.getElementById('snippet').textContent")
    page.get_by_role("button", name="中文").click()
    assert "28\u00d728" in label(page)
    assert page.inner_text("#made-figure figcaption") == "模型还原出的"
    page.click("#clear", force=True)
    page.wait_for_function("() => !document.getElementById('made').getAttribute('aria-label').includes('28')")
    assert pixels(page, "made").max() == 0


def test_it_is_hidden_where_a_model_gives_none(visit: Open, able: str) -> None:
    page = visit("?model=mnist-back", url=able).page
    page.wait_for_selector("#made-figure:not([hidden])")
    page.select_option("#model", "mnist-mlp")
    page.wait_for_selector("#made-figure", state="hidden")
    page.set_input_files("#file", SEVEN)
    page.wait_for_function("() => document.getElementById('label').textContent === '7'")
    assert "reconstruct" not in page.evaluate("document.getElementById('snippet').textContent")


@pytest.mark.parametrize("width", [390, 1280])
def test_it_has_room_and_axe_finds_nothing(visit: Open, able: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit("?model=mnist-back", url=able, viewport={"width": width, "height": 844}).page
    page.set_input_files("#file", SEVEN)
    page.wait_for_function("() => document.getElementById('made').getAttribute('aria-label').includes('28 by 28')")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    found = axe.run(page, context="#ask")
    assert found.violations_count == 0, found.generate_report()
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("made", "seen")]
    assert all(box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    if folder := os.environ.get("DLENV_TEST_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"reconstruction-{width}.png")
