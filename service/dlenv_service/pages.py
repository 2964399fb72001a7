"""What the service answers a browser with: the page, and the interface described. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

import orjson

from dlenv_service import page
from dlenv_service.http import Receive, Response, Scope, json_response
from dlenv_service.openapi import document

if TYPE_CHECKING:
    from dlenv_service.asgi import Service

__all__ = ["docs", "home", "openapi_json", "page_file"]

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code,pre{font-family:ui-monospace,monospace}pre{overflow:auto;padding:.75rem;border:1px solid #8886}"
    "section{margin:1.5rem 0;border-top:1px solid #8886}.verb{font-weight:700}"
)


async def home(service: Service, scope: Scope, receive: Receive) -> Response:
    """Answer with the page."""
    return page.answer(scope, page.INDEX)


async def page_file(service: Service, scope: Scope, receive: Receive, file: str) -> Response:
    """Answer with a file that the page loads."""
    return page.answer(scope, file)


async def openapi_json(service: Service, scope: Scope, receive: Receive) -> Response:
    """Answer with the OpenAPI document."""
    return json_response(document(keys=service.gate.keys is not None))


async def docs(service: Service, scope: Scope, receive: Receive) -> Response:
    """Answer with the OpenAPI document as a page."""
    body, policy = _docs(service.gate.keys is not None)
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
    return Response(200, headers, body)


@cache
def _docs(keys: bool) -> tuple[bytes, bytes]:
    """The page, and the policy that allows its one style sheet and nothing else."""
    api = document(keys=keys)
    sections = "".join(
        _section(path, method, operation)
        for path, item in api["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    )
    schemas = "".join(
        f"<h3 id='{escape(name)}'>{escape(name)}</h3><pre>{_pretty(schema)}</pre>"
        for name, schema in api["components"]["schemas"].items()
    )
    html = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>dlenv {escape(api['info']['version'])}: HTTP interface</title><style>{_STYLE}</style>"
        f"<h1>dlenv {escape(api['info']['version'])}</h1><p>{escape(api['info']['summary'])} "
        "The same as a document: <a href=/openapi.json>/openapi.json</a>.</p>"
        "<p>Every error is <code>{&quot;error&quot;: &quot;what, which value, what to do&quot;}</code>.</p>"
        f"{sections}<h2>Schemas</h2>{schemas}</html>"
    )
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'; base-uri 'none'"
    return html.encode(), policy.encode()


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    answers = "".join(
        f"<li><code>{status}</code> {escape(answer['description'])}</li>"
        for status, answer in operation["responses"].items()
    )
    bodies = ", ".join(operation.get("requestBody", {}).get("content", {}))
    return (
        f"<section><h2><span class=verb>{method.upper()}</span> <code>{escape(path)}</code></h2>"
        f"<p>{escape(operation['summary'])}.</p>"
        + (f"<p>{escape(operation['description'])}</p>" if "description" in operation else "")
        + (f"<p>Body: <code>{escape(bodies)}</code></p>" if bodies else "")
        + f"<ul>{answers}</ul></section>"
    )


def _pretty(schema: object) -> str:
    return escape(orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode())
