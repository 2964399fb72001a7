"""What a request needs to be let in, by its path; one table for the service, its documentation and its tests.

=========  ==========================================================================================
open       nothing: probes of load balancers, and the pages, which hold nothing of the service's own
read       any key, one without scopes too: metadata, readiness, statistics, metrics, what there is
infer      a key with the scope ``infer``: asking a model
admin      a key with the scope ``admin``: whatever changes the service
=========  ==========================================================================================

A path that is not in the table needs a key; forgetting one here never opens it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

__all__ = ["SCOPES", "Access", "Entry", "KeyScope", "entry"]

Access = Literal["open", "read", "infer", "admin"]
KeyScope = Literal["infer", "admin"]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)

_OPEN = frozenset({"/", "/docs", "/openapi.json", "/page/{file}", "/v2/health/live", "/v2/health/ready"})
_CHANGES = ("/load", "/unload")
_REPOSITORY = "/v2/repository/"


class Entry(NamedTuple):
    """What a path needs, and whether it is for who runs the service: then it goes to ``--admin-address``."""

    access: Access
    management: bool


def entry(path: str) -> Entry:
    """What a request to ``path`` needs, as the path stands in the table of routes."""
    management = path.startswith(_REPOSITORY) or path.endswith("/stats") or path == "/metrics"
    return Entry(_access(path), management)


def _access(path: str) -> Access:
    if path in _OPEN:
        return "open"
    if path.startswith(_REPOSITORY) and path.endswith(_CHANGES):
        return "admin"
    if path.endswith("/infer") or path.startswith("/predict/"):
        return "infer"
    return "read"
