"""The table of routes: which handler answers which method and path.

``/openapi.json`` and ``/docs`` are made from the same table, so a path that exists is documented.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from dlenv.errors import MethodNotAllowed, NotFound
from dlenv_service import inference, information, management, pages
from dlenv_service.access import entry
from dlenv_service.http import Response

__all__ = ["ENTRIES", "ROUTES", "Route", "resolve"]

Handler = Callable[..., Awaitable[Response]]


class Route(NamedTuple):
    """One method of one path; ``{name}`` in the path stands for one segment."""

    method: str
    path: str
    handler: Handler


ROUTES = (
    Route("GET", "/v2/health/live", information.live),
    Route("GET", "/v2/health/ready", information.ready),
    Route("GET", "/v2", information.server),
    Route("GET", "/v2/models/{model}", information.model),
    Route("GET", "/v2/models/{model}/versions/{version}", information.model),
    Route("GET", "/v2/models/{model}/ready", information.model_ready),
    Route("GET", "/v2/models/{model}/versions/{version}/ready", information.model_ready),
    Route("POST", "/v2/models/{model}/infer", inference.infer),
    Route("POST", "/v2/models/{model}/versions/{version}/infer", inference.infer),
    Route("POST", "/predict/{model}", inference.predict),
    Route("POST", "/predict/{model}/versions/{version}", inference.predict),
    Route("GET", "/v2/models/{model}/config", information.model_config),
    Route("GET", "/v2/models/{model}/versions/{version}/config", information.model_config),
    Route("GET", "/models", information.models),
    Route("GET", "/models/{model}/card", information.card),
    Route("GET", "/models/{model}/versions/{version}/card", information.card),
    Route("GET", "/v2/models/stats", information.statistics),
    Route("GET", "/v2/models/{model}/stats", information.statistics),
    Route("GET", "/v2/models/{model}/versions/{version}/stats", information.statistics),
    Route("POST", "/v2/repository/index", management.index),
    Route("POST", "/v2/repository/models/{model}/load", management.load),
    Route("POST", "/v2/repository/models/{model}/unload", management.unload),
    Route("GET", "/metrics", information.metrics),
    Route("GET", "/openapi.json", pages.openapi_json),
    Route("GET", "/docs", pages.docs),
    Route("GET", "/", pages.home),
    Route("GET", "/page/{file}", pages.page_file),
)

# What a request needs before its handler is called.
ENTRIES = {route.handler: entry(route.path) for route in ROUTES}


class _Node:
    """A point in the tree of path segments: where a named segment, or any segment, leads on to."""

    __slots__ = ("any", "methods", "named", "parameter")

    def __init__(self) -> None:
        self.named: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.parameter = ""  # what the segment that `any` stands for is called
        self.methods: dict[str, Handler] = {}


def _plant(routes: tuple[Route, ...]) -> _Node:
    root = _Node()
    for route in routes:
        node = root
        for segment in filter(None, route.path.split("/")):
            if segment.startswith("{"):
                node.parameter = segment.strip("{}")
                node.any = node = node.any or _Node()
            else:
                node = node.named.setdefault(segment, _Node())
        node.methods[route.method] = route.handler
    return root


_TREE = _plant(ROUTES)


def _find(node: _Node, segments: list[str], arguments: dict[str, str]) -> _Node | None:
    """Follow the segments; a named one goes first, unless it leads nowhere (a model may be called ``stats``)."""
    if not segments:
        return node if node.methods else None
    first, rest = segments[0], segments[1:]
    named = node.named.get(first)
    if named is not None and (found := _find(named, rest, arguments)) is not None:
        return found
    if node.any is None or (found := _find(node.any, rest, arguments)) is None:
        return None
    arguments[node.parameter] = first
    return found


def resolve(method: str, path: str) -> tuple[Handler, dict[str, str]]:
    """The handler for a request, and the values of the path's parameters.

    Raises:
        NotFound: no such path; names the nearest one.
        MethodNotAllowed: the path has other methods.
    """
    arguments: dict[str, str] = {}
    node = _find(_TREE, [segment for segment in path.split("/") if segment], arguments)
    if node is None:
        raise _not_found(path)
    handler = node.methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        allow = ", ".join(sorted({*node.methods, *(["HEAD"] if "GET" in node.methods else [])}))
        raise MethodNotAllowed(f"{path[:200]!a} does not answer {method[:20]!a}; send {allow}", allow)
    return handler, arguments


def _not_found(path: str) -> NotFound:
    close = difflib.get_close_matches(path[:200], [route.path for route in ROUTES], n=1)
    hint = f"did you mean {close[0]}?" if close else "the paths are listed at /docs"
    return NotFound(f"no such path {path[:200]!a}; {hint}")
