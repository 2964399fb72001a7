"""Triton's ``model_repository`` extension: what there is, and loading and unloading while the service runs.

Models come only from the repository's own folders: a request can name one, but never send one or say where to
fetch it from.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dlenv.errors import Forbidden, InvalidValue, ModelInvalid, RequestError
from dlenv_service.codec import load_json
from dlenv_service.http import Receive, Response, Scope, content_type, header, json_response, read_body

if TYPE_CHECKING:
    from dlenv_service.asgi import Service

__all__ = ["index", "load", "unload"]

# Versions of one model at once; each is looked up and holds memory.
MAX_VERSIONS = 100
# A hundred versions take one.
MAX_DOCUMENT_BYTES = 65_536


async def index(service: Service, scope: Scope, receive: Receive) -> Response:
    """Answer with every model version in the repository and its state."""
    service.require_started()
    document = await _document(service, scope, receive)
    only_ready = document.get("ready", False)
    if not isinstance(only_ready, bool):
        raise RequestError(f"ready is {ascii(only_ready)[:60]}; give true or false")
    rows = []
    for entry in await asyncio.to_thread(service.host.repository.entries):
        loaded = entry.version in service.host.versions(entry.name)
        reason = entry.problem or service.host.problems.get(entry.name, "")
        if loaded or not only_ready:
            state = "READY" if loaded else "UNAVAILABLE"
            rows.append(
                {
                    "name": entry.name,
                    "version": str(entry.version),
                    "state": state,
                    "reason": "" if loaded else reason or "not loaded",
                }
            )
    return json_response(rows)


async def load(service: Service, scope: Scope, receive: Receive, model: str) -> Response:
    """Load a model's newest version, or those that ``config`` names, in place of the loaded ones."""
    _same_site(service, scope)
    service.require_started()
    policy = _version_policy(_parameters(await _document(service, scope, receive)))

    async def change() -> None:
        async with service.changing:
            versions = policy if isinstance(policy, list) else None
            if isinstance(policy, int):
                known = await asyncio.to_thread(service.host.repository.versions, model)
                versions = known[-policy:] if known else None
            document = await service.host.plan_load(model, versions)
            try:
                await service.change(document)
            except ModelInvalid as error:
                service.host.problems[model] = str(error)  # for the index, until the models change again
                raise

    await service.to_the_end(change())
    return json_response({})


async def unload(service: Service, scope: Scope, receive: Receive, model: str) -> Response:
    """Unload every version of a model; what it has accepted is answered first."""
    _same_site(service, scope)
    service.require_started()
    _parameters(await _document(service, scope, receive))

    async def change() -> None:
        async with service.changing:
            await service.change(service.host.plan_unload(model))

    await service.to_the_end(change())
    return json_response({})


def _same_site(service: Service, scope: Scope) -> None:
    """Refuse a request that a browser sends for another site's page.

    Any page that somebody looks at on this machine can send a POST without a body to 127.0.0.1; browsers say so in
    these headers (Fetch Metadata, w3.org/TR/fetch-metadata), and only browsers send them.

    Raises:
        Forbidden: it does.
    """
    settings = service.settings
    site = header(scope, b"sec-fetch-site")
    origin = header(scope, b"origin")
    if service.gate.allows_origin(origin):
        return
    if site not in (None, "same-origin", "none") or (
        origin is not None and origin.partition("://")[2] != header(scope, b"host")
    ):
        raise Forbidden(f"another site's page ({ascii(origin or site)[:80]}) may not change models; ask from here")
    # A page can also let its own name point here (DNS rebinding); it can't do so with an address, or without the key.
    if origin is not None and settings.keys is None and not settings.insecure and not _is_own_name(scope):
        raise Forbidden(
            f"a page by the name of {ascii(header(scope, b'host'))[:80]} may not change models without a key; ask "
            "by 127.0.0.1 or localhost"
        )


def _is_own_name(scope: Scope) -> bool:
    """Whether the ``Host`` header is an address or localhost, which no name server decides on."""
    try:
        name = urlsplit(f"//{header(scope, b'host')}").hostname
        return name == "localhost" or ipaddress.ip_address(name or "") is not None
    except ValueError:
        return False


async def _document(service: Service, scope: Scope, receive: Receive) -> dict[str, Any]:
    """The body's JSON object; an empty body is an empty object."""
    content_type(scope, ("application/json", "application/octet-stream"))
    settings = service.settings
    most = min(MAX_DOCUMENT_BYTES, settings.max_body_bytes)
    with service.room(scope) as take:
        body = await read_body(scope, receive, most, settings.body_timeout_ms, take)
    return load_json(body) if body else {}


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError("parameters must be an object")
    for name in parameters:
        if name not in ("config", "unload_dependents"):
            raise InvalidValue(
                f"parameter {name[:60]!a} is not offered: models come from the repository only; publish the "
                "model there and load it by name"
            )
    return parameters


def _version_policy(parameters: dict[str, Any]) -> list[int] | int | None:
    """``config``'s ``version_policy``: a list of versions, how many of the newest, or None for the newest."""
    if "config" not in parameters:
        return None
    text = parameters["config"]
    if not isinstance(text, str):
        raise RequestError("parameter config must be a string that holds JSON")
    config = load_json(text.encode())
    policy = config.pop("version_policy", {})
    if config or not isinstance(policy, dict) or len(policy) > 1:
        raise InvalidValue('only config {"version_policy": {...}} can be given here; the rest is the manifest\'s')
    if not policy:
        return None
    match policy:
        case {"specific": {"versions": [*versions]}} if 0 < len(versions) <= MAX_VERSIONS and all(
            type(each) is int for each in versions
        ):
            return versions
        case {"latest": {"num_versions": int(count)}} if count > 0:
            return count
        case {"all": {}}:
            return 2**31
    raise InvalidValue(
        f"version_policy {ascii(policy)[:80]} is not understood; give specific.versions, latest.num_versions or all"
    )
