"""The table of routes: which handler answers which method and path.

``/openapi.json`` and ``/docs`` are made from the same table, so a path that exists is documented.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from dlenv.errors import MethodNotAllowed, NotFound
from dlenv_service import inference, information, management, pages
from dlenv_service.http import Response

__all__ = ["ROUTES", "Route", "resolve"]

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
)

# The routes as a tree of path segments: a segment's name, or "{...}" for any, leads on; None leads to the methods.
_Tree = dict[Any, Any]


def _plant(routes: tuple[Route, ...]) -> _Tree:
    root: _Tree = {}
    for route in routes:
        node = root
        for segment in filter(None, route.path.split("/")):
            key = "{}" if segment.startswith("{") else segment
            node = node.setdefault(key, {"name": segment.strip("{}")})
        node.setdefault(None, {})[route.method] = route.handler
    return root


_TREE = _plant(ROUTES)


def resolve(method: str, path: str) -> tuple[Handler, dict[str, str]]:
    """The handler for a request, and the values of the path's parameters.

    Raises:
        NotFound: no such path; names the nearest one.
        MethodNotAllowed: the path has other methods.
    """
    node = _TREE
    arguments: dict[str, str] = {}
    for segment in path.split("/"):
        if not segment:
            continue
        following = node.get(segment)
        if following is None:
            following = node.get("{}")
            if following is None:
                raise _not_found(path)
            arguments[following["name"]] = segment
        node = following
    methods = node.get(None)
    if methods is None:
        raise _not_found(path)
    handler = methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        allow = ", ".join(sorted(methods))
        raise MethodNotAllowed(f"{path[:200]} does not answer {method[:20]}; send {allow}", allow)
    return handler, arguments


def _not_found(path: str) -> NotFound:
    close = difflib.get_close_matches(path[:200], [route.path for route in ROUTES], n=1)
    hint = f"did you mean {close[0]}?" if close else "the paths are listed at /docs"
    return NotFound(f"no such path {path[:200]!a}; {hint}")
