"""Paths and methods: each route is found, and everything else is refused by name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlenv.errors import MethodNotAllowed, NotFound
from dlenv_service.routes import ROUTES, Route, resolve

SEGMENTS = sorted({segment for route in ROUTES for segment in route.path.split("/") if segment})


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_route_leads_to_its_handler_with_its_parameters(route: Route) -> None:
    values = {"model": "any", "version": "7", "file": "page.css"}
    wanted = {name: values[name] for name in re.findall(r"{(\w+)}", route.path)}
    path = route.path.format(**values)
    assert resolve(route.method, path) == (route.handler, wanted)
    assert resolve(route.method, path + "/") == (route.handler, wanted)


@pytest.mark.parametrize("name", ["stats", "models", "name", "{}", "{model}", "versions", "infer", "..", "\0", "é"])
def test_a_model_may_be_called_anything(name: str) -> None:
    assert resolve("POST", f"/v2/models/{name}/infer")[1] == {"model": name}
    assert resolve("GET", f"/v2/models/{name}/versions/1/stats")[1] == {"model": name, "version": "1"}
    assert resolve("POST", f"/predict/{name}")[1] == {"model": name}


def test_the_statistics_of_everything_are_no_model() -> None:
    assert resolve("GET", "/v2/models/stats")[1] == {}


def test_head_is_answered_where_get_is() -> None:
    assert resolve("HEAD", "/metrics") == resolve("GET", "/metrics")
    with pytest.raises(MethodNotAllowed) as refused:
        resolve("HEAD", "/predict/x")
    assert refused.value.allow == "POST"


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "\x1b"]),
    st.lists(st.sampled_from([*SEGMENTS, "{}", "name", "any", "methods", ""]) | st.text(max_size=8), max_size=7),
)
def test_any_path_is_resolved_or_refused_on_one_line(method: str, segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    try:
        handler, _ = resolve(method, path)
    except (NotFound, MethodNotAllowed) as error:
        text = str(error)
    else:
        text = handler.__name__
    assert text.isprintable()
    assert text
