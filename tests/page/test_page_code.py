"""The calls as code: each shown curl command and each shown Python program is run, and answers what the page showed."""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_service import ROOT, serve

from dlenv_service import keyfile

if TYPE_CHECKING:
    from page_browser import Visit
    from playwright.sync_api import Page

Open = Callable[..., "Visit"]
pytestmark = pytest.mark.slow  # each opens the page in a browser

NEEDS = ("bash", "base64", "curl")


def code(page: Page, kind: str) -> tuple[str, str, str]:
    """The curl command, the Python program and the answer that are shown for a kind of call."""
    page.click(f"#calls [data-kind={kind}] button")
    texts = []
    for language in ("curl", "python"):
        page.click(f"[data-code={language}]")
        texts.append(page.evaluate("document.getElementById('snippet').textContent"))
    return texts[0], texts[1], page.evaluate("document.getElementById('answer').textContent")


def kinds(page: Page) -> list[str]:
    found: list[str] = page.evaluate("[...document.getElementById('calls').children].map((item) => item.dataset.kind)")
    return found


def run(command: list[str], folder: Path, **environ: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def same(one: object, other: object) -> bool:
    """Whether two answers say the same: numbers within what the other rows of a batch change in float32."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return (
        math.isclose(one, other, abs_tol=1e-6) if isinstance(one, float) and isinstance(other, float) else one == other
    )


def check(page: Page, folder: Path, **environ: str) -> set[str]:
    """Run every snippet that the page shows; gives the kinds."""
    for kind in kinds(page):
        command, program, shown = code(page, kind)
        out = run(["bash", "-c", command], folder, **environ)
        told = run([sys.executable, "-W", "error", "-c", program], folder, **environ)
        if (folder / "answer.bin").exists():
            raw = (folder / "answer.bin").read_bytes()
            (folder / "answer.bin").unlink()
            end = raw.index(b"}]}") + 3
            outputs = json.loads(raw[:end])["outputs"]
            assert outputs == json.loads(shown)["outputs"]
            rows, _, values = told.partition(" ")
            assert int(rows) == outputs[0]["shape"][0]
            assert sum(json.loads(values)) == pytest.approx(1, abs=1e-4)
        elif kind == "metrics":
            assert out.splitlines()[0] == told.splitlines()[0] == shown.splitlines()[0]
        elif kind == "stats":
            assert json.loads(out)["model_stats"][0]["name"] == ast.literal_eval(told)["model_stats"][0]["name"]
        elif shown.endswith(" …"):  # a long answer is not shown to its end
            assert json.loads(out) == ast.literal_eval(told)
            assert f'"name": "{json.loads(out)["name"]}"' in shown
        else:
            assert same(json.loads(out), ast.literal_eval(told))
            assert same(json.loads(out), json.loads(shown))
    return set(kinds(page))


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    for program in NEEDS:
        if shutil.which(program) is None:
            pytest.skip(f"the page's commands need {program}, which is not here")


def test_every_call_of_an_image_model_runs_as_shown(visit: Open, tmp_path: Path) -> None:
    page = visit(reduced_motion="reduce").page  # an example is there at once, not drawn before one's eyes
    page.get_by_role("button", name="Example: 2").click()
    page.wait_for_function("() => document.getElementById('label').textContent === '2'")
    page.click("#burst")
    page.wait_for_selector(".sizes")
    assert check(page, tmp_path) == {"predict", "burst", "card", "stats", "metrics", "models", "server"}


def test_every_call_of_a_plane_model_runs_as_shown(visit: Open, tmp_path: Path) -> None:
    page = visit("?model=spiral-mlp").page
    page.wait_for_selector(".plane.done >> nth=1")
    for kind in ("point", "metrics"):  # these come by themselves
        page.wait_for_selector(f"#calls [data-kind={kind}]", state="attached")
    assert check(page, tmp_path) == {"point", "grid", "card", "metrics", "models", "server"}


def test_a_call_is_found_from_where_it_was_made_and_copied(visit: Open) -> None:
    visited = visit(permissions=["clipboard-read", "clipboard-write"])
    page = visited.page
    assert page.locator("[data-shows=predict]").is_disabled()
    page.set_input_files("#file", ROOT / "tests/data/seven.png")
    page.wait_for_function("() => document.getElementById('label').textContent === '7'")
    page.click("[data-shows=predict]")
    assert page.evaluate("document.activeElement.id") == "code"
    page.click("#copy")
    page.wait_for_function("() => document.getElementById('copy').textContent === 'Copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.evaluate("document.getElementById('snippet').textContent")
    assert "/predict/mnist-lenet" in copied


def test_with_keys_the_page_asks_for_one_and_never_shows_it(
    visit: Open, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = tmp_path / "keys.toml"
    key = keyfile.add(keys, "reader", ("infer",))
    with serve(tmp_path_factory.mktemp("locked"), "mnist-lenet", keys=str(keys)) as url:
        import page_browser

        visited = page_browser.Visit(visit(reduced_motion="reduce").page.context.new_page())
        visited.expected = ("status of 401",)
        page = visited.page
        page.goto(url)
        page.wait_for_selector("#key:not([hidden])")
        assert "asks for an API key" in page.inner_text("#key-note")
        assert page.evaluate("document.activeElement.id") == "key-value"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('problem').textContent.includes('401')")
        page.fill("#key-value", key)
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('health').textContent.startsWith('Ready')")
        page.get_by_role("button", name="Example: 4").click()
        page.wait_for_function("() => document.getElementById('label').textContent === '4'")
        assert "predict" in check(page, tmp_path, DLENV_KEY=key)
        shown = "document.documentElement.outerHTML + document.cookie"
        kept = "JSON.stringify([{...localStorage}, {...sessionStorage}])"
        assert key not in page.evaluate(f"{shown} + {kept}")
        assert "$DLENV_KEY" in code(page, "predict")[0]
        page.reload()
        page.wait_for_selector("#key:not([hidden])")  # it is gone with the page
        visited.check()
