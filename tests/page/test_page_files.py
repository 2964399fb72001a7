"""The page's files, without a browser: what goes over the wire, and what may not be in them."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path

import httpx
import pytest
from page_service import ROOT

from dlenv_models.architectures import ARCHITECTURES

FOLDER = ROOT / "service/dlenv_service/web"
FILES = sorted(path.name for path in FOLDER.iterdir())
LIMIT = 200_000  # bytes, of everything

# Ways to make HTML or code out of text.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|setHTML|"
    r"\beval\b|new Function|srcdoc|javascript:|import\("
)
FOREIGN = re.compile(r"https?://(?!www\.w3\.org/2000/svg)")


def text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def without_comments(source: str) -> str:
    return re.sub(r"^\s*//.*$|/\*.*?\*/", "", source, flags=re.MULTILINE | re.DOTALL)


def test_all_of_it_is_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in FILES) < LIMIT


@pytest.mark.parametrize("name", FILES)
def test_no_html_or_code_is_made_of_text_and_nothing_comes_from_elsewhere(name: str) -> None:
    source = without_comments(text(name))
    assert FORBIDDEN.search(source) is None
    assert FOREIGN.search(source) is None
    assert not re.search(r"\bstyle=|\bon\w+=", source)  # the policy allows no inline style and no inline script


@pytest.mark.parametrize("name", FILES)
def test_a_module_has_at_most_three_hundred_lines(name: str) -> None:
    assert name.endswith(".css") or text(name).count("\n") <= 300


def words(language: str) -> dict[str, set[str]]:
    """Key -> the names that are filled in."""
    source = text(f"words.{language}.js")
    found = re.findall(r'^  (\w+):\s*"((?:[^"\\]|\\.)*)"', source, re.MULTILINE)
    return {key: set(re.findall(r"\{(\w+)\}", value)) for key, value in found}


def test_both_languages_say_the_same_things() -> None:
    assert words("en") == words("zh")
    assert len(words("en")) > 100


def test_chinese_has_a_blank_beside_latin_words_and_numbers() -> None:
    """What is filled in is a number, a unit or a name, so it takes one as well."""
    said = re.findall(r'"(.*)"', text("words.zh.js"))
    assert [each for each in said if re.search(r"[\u4e00-\u9fff][\w{]|[\w}%][\u4e00-\u9fff]", each, re.ASCII)] == []


def test_every_word_that_is_asked_for_is_there_and_every_one_is_used() -> None:
    html = text("index.html")
    scripts = "".join(text(name) for name in FILES if name.endswith(".js") and not name.startswith("words."))
    asked = set(re.findall(r'data-say(?:-label)?="(\w+)"', html))
    said = set(re.findall(r'"(\w+)"', scripts)) | {"gone", "locked"}
    known = set(words("en"))
    assert asked <= known
    assert set(re.findall(r'\bsay\("(\w+)"', scripts)) <= known
    kinds = {f"kind_{kind}" for kind in re.findall(r'"(\w+)"', re.search(r"KINDS = \[(.*?)\]", scripts)[1])}  # type: ignore[index]
    assert kinds == {key for key in known if key.startswith("kind_")}
    named = {f"architecture_{name}" for name in ARCHITECTURES}
    assert named <= known
    built = kinds | named
    assert known - asked - said - built == set()


def test_each_file_is_answered_with_its_type_and_the_policy(page_url: str) -> None:
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    for path in ["/", *(f"/page/{name}" for name in FILES)]:
        response = httpx.get(page_url + path)
        assert response.status_code == 200, path
        kind = kinds[Path(path).suffix or ".html"]
        assert response.headers["content-type"].partition(";")[0] == kind
        policy = dict(part.partition(" ")[::2] for part in response.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["x-frame-options"] == "DENY"


def test_a_file_that_the_browser_has_is_not_sent_again(page_url: str) -> None:
    first = httpx.get(f"{page_url}/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = httpx.get(f"{page_url}/page/main.js", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert "content-length" not in again.headers
        assert again.headers["etag"] == first.headers["etag"]
    assert httpx.get(f"{page_url}/page/main.js", headers={"if-none-match": '"other"'}).content == first.content


def test_head_gives_the_head(page_url: str) -> None:
    for path in ("/", "/page/page.css"):
        whole, head = httpx.get(page_url + path), httpx.head(page_url + path)
        assert head.content == b""
        assert head.headers["content-length"] == str(len(whole.content))
        assert head.headers["etag"] == whole.headers["etag"]


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpage.py", "%2e%2e", "__init__.py"])
def test_there_is_nothing_but_the_pages_files(page_url: str, name: str) -> None:
    response = httpx.get(f"{page_url}/page/{name}")
    assert response.status_code == 404
    assert set(response.json()) == {"error"}


def test_the_loaded_models_and_their_cards(page_url: str) -> None:
    models = httpx.get(f"{page_url}/models").json()["models"]
    assert {each["name"]: each["versions"] for each in models} == {
        "mnist-lenet": [1],
        "mnist-mlp": [1],
        "spiral-linear": [1, 2],
        "spiral-mlp": [1],
    }
    card = httpx.get(f"{page_url}/models/mnist-lenet/card").json()
    assert card["metrics"]["test_accuracy"] == 0.989
    assert sum(map(sum, card["metrics"]["confusion"])) == card["data"]["test"] == 1000
    assert card["training"]["command"] == "dlenv train lenet --data mnist5k --name mnist-lenet"
    assert card["served"]["device"] == "cpu"
    assert card["served"]["max_rows"] == 1024
    assert httpx.get(f"{page_url}/models/spiral-linear/versions/1/card").json()["version"] == 1
    assert httpx.get(f"{page_url}/models/spiral-linear/card").json()["version"] == 2
    missing = httpx.get(f"{page_url}/models/nothing/card")
    assert missing.status_code == 404
    assert "nothing" in missing.json()["error"]


def test_a_card_counts_the_weights_that_are_in_the_file(page_url: str) -> None:
    for name in ("mnist-lenet", "mnist-mlp", "spiral-linear", "spiral-mlp"):
        raw = (ROOT / f"models/dlenv_models/trained/{name}/1/model.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        tensors = json.loads(raw[8 : 8 + length])
        counted = sum(math.prod(each["shape"]) for key, each in tensors.items() if key != "__metadata__")
        assert httpx.get(f"{page_url}/models/{name}/card").json()["parameters"] == counted
