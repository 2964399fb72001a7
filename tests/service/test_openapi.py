"""The document of the interface: valid, complete, and true; and the page that shows it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from serving import Running

from dlenv import __version__
from dlenv_service.openapi import document
from dlenv_service.routes import ROUTES


def test_the_document_is_valid_openapi_31() -> None:
    validate(document(), cls=OpenAPIV31SpecValidator)
    assert document()["openapi"] == "3.1.0"
    assert document()["info"]["version"] == __version__


def test_the_routes_and_the_document_are_the_same_set() -> None:
    documented = {
        (method.upper(), path)
        for path, item in document()["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert documented == {(route.method, route.path) for route in ROUTES}
    assert len(ROUTES) == len({(route.method, route.path) for route in ROUTES})


def test_each_parameter_of_a_path_is_described() -> None:
    for path, item in document()["paths"].items():
        described = {each["name"] for each in item.get("parameters", ()) if each["in"] == "path"}
        assert described == set(re.findall(r"{(\w+)}", path))


def test_the_service_answers_with_the_document(running: Running) -> None:
    response = running.client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == document()


def path_of(route_path: str) -> str:
    return route_path.replace("{model}", "points").replace("{version}", "1").replace("{file}", "page.css")


@pytest.mark.parametrize("path", [route.path for route in ROUTES if route.method == "GET"])
def test_each_get_answers_with_a_status_and_a_type_that_are_documented(running: Running, path: str) -> None:
    response = running.client.get(path_of(path))
    documented = document()["paths"][path]["get"]["responses"]
    assert response.status_code == 200
    kinds = documented[str(response.status_code)].get("content")
    if kinds:
        assert response.headers["content-type"].partition(";")[0] in kinds


class Page(HTMLParser):
    """What a page names that a browser would fetch, and its style sheets."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.style = ""
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "data", "action")]
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data


def test_the_page_loads_nothing_and_its_policy_allows_only_its_style(running: Running) -> None:
    response = running.client.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = Page()
    page.feed(response.text)
    assert page.fetched == ["/openapi.json"]
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "url(" not in page.style
    assert "@import" not in page.style
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_page_names_every_route(running: Running) -> None:
    text = running.client.get("/docs").text
    for route in ROUTES:
        assert f"{route.method}</span> <code>{route.path}</code>" in text
