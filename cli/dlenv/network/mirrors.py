"""Which mirror to use: asked all at once, measured, and the official place kept where it is good enough."""

from __future__ import annotations

import html
import queue
import re
import threading
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import unquote

import httpx
import msgspec
from rich.filesize import decimal

from dlenv.catalog.mirrors import Kind, Mirror, all_names, mirrors
from dlenv.errors import UsageError
from dlenv.network import configured
from dlenv.network.http import FAILURES, client, public, reason

# A small page or the beginning of a file that every mirror of a kind has. PyPI's page of torch has some 300 kB.
_PROBES: dict[Kind, str] = {"pypi": "torch/", "pytorch": "torch/", "conda": "noarch/repodata.json"}
_SAMPLE = 256 << 10  # bytes that are read to measure
# The official place is preferred, since whoever else serves a package could serve another one: it stays first where
# it gives the sample within this many seconds, or where no mirror is that many times as fast.
_GOOD = 1.0
_FASTER = 3.0
_TITLES: dict[Kind, str] = {"pypi": "PyPI", "pytorch": "PyTorch's wheels", "conda": "conda-forge", "python": "Python"}


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What one mirror answered."""

    mirror: Mirror
    reachable: bool
    seconds: float  # until the sample was there
    speed: float = 0.0  # bytes a second, the connection's making included
    why: str = ""  # not reachable


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Mirrors in the order to be tried."""

    mirrors: tuple[Mirror, ...]  # never empty; ends with the official place unless the user named another one
    probes: tuple[Probe, ...] = ()  # of those that answered, or failed, in time
    notes: tuple[str, ...] = ()  # for people: what is used and why, what was left out and why

    @property
    def reachable(self) -> bool:
        """Whether the first one answered; True where it is the user's own, which is not asked."""
        first = self.mirrors[0]
        return first.origin is not None or _serves(first, self.probes)


def check(wanted: str) -> None:
    """Raise ``UsageError`` where ``wanted`` is neither a mirror's name nor "auto" or "none"."""
    if wanted not in ("auto", "none", *(names := all_names())):
        raise UsageError(f"there is no mirror {wanted!r}; there are auto, none, {', '.join(names)}")


def choose(
    kind: Kind,
    wanted: str = "auto",
    *,
    build: str = "",
    file: str | None = None,
    probe_path: str | None = None,
    budget: float = 2.0,
) -> Choice:
    """The mirrors to use for ``kind``: ``wanted`` is "auto", "none" (the official place only) or a mirror's name.

    ``build`` is the flavour of PyTorch's build. ``file``, a pattern such as ``torch-2.14.1+cu126-cp311-*``, has to be
    among the names on the page that is asked for; ``probe_path`` is that page or file, below the mirror's address.
    All are asked at once, for ``budget`` seconds at most in total.

    The user's own configuration wins over "auto", and is not asked; with a name or "none" it does not count. Raises
    ``UsageError`` for an unknown name and for an own address that is none, ``Unreachable`` where proxy or certificates
    in the environment can't be used.
    """
    known = [mirror.for_build(build) for mirror in mirrors(kind)]
    title = _TITLES[kind]
    notes: list[str] = []
    check(wanted)
    if wanted == "none" or any(mirror.name == wanted for mirror in known):
        known = [_alone(mirror) for mirror in known if mirror.official or mirror.name == wanted]
    else:
        if wanted != "auto":
            notes.append(f"{wanted} has no mirror of {title}: one is chosen")
        if own := _configured(kind):
            return Choice(mirrors=(own,), notes=(*notes, f"{title}: {public(own.url)}, as {own.origin} says"))
    probes = _ask(known, probe_path, file, budget, patient=any(mirror.name == wanted for mirror in known))
    order, why = _order(known, probes)
    if asked := [mirror for mirror in order if mirror.name == wanted]:
        order, why = asked + [mirror for mirror in order if mirror.name != wanted], "as asked for"
    if not any(probe.reachable for probe in probes):
        failures = "; ".join(f"{probe.mirror.name}: {probe.why}" for probe in probes)
        notes.append(f"{title}: nothing answers ({failures})")
        return Choice(mirrors=tuple(order), probes=tuple(probes), notes=tuple(notes))
    notes.append(f"{title}: {order[0].name} ({public(order[0].url)}), {why}")
    # Mirrors that nobody asked for and nobody needs are no news.
    quiet = wanted == "auto" and order[0].official and _serves(order[0], probes)
    for probe in probes:
        if not (quiet or probe.reachable or probe.mirror == order[0]):
            fate = "is the last resort" if probe.mirror.official else "is not used"
            notes.append(f"{title}: {probe.mirror.name} ({public(probe.mirror.url)}) {fate}: {probe.why}")
    return Choice(mirrors=tuple(order), probes=tuple(probes), notes=tuple(notes))


def _configured(kind: Kind) -> Mirror | None:
    if kind == "pypi":
        return configured.package_index()
    return configured.python_downloads() if kind == "python" else None


def _alone(mirror: Mirror) -> Mirror:
    """The mirror, with variables that make it count whatever else the user has configured."""
    if mirror.kind == "pypi":
        environ = {
            "UV_DEFAULT_INDEX": mirror.url,
            "PIP_INDEX_URL": mirror.url,
            "PIP_EXTRA_INDEX_URL": "",
            **configured.ALONE,
        }
        return msgspec.structs.replace(mirror, environ=environ)
    if mirror.kind == "python":
        return msgspec.structs.replace(mirror, environ={"UV_PYTHON_INSTALL_MIRROR": mirror.url})
    return mirror


def _order(known: Sequence[Mirror], probes: Sequence[Probe]) -> tuple[list[Mirror], str]:
    fast = sorted((p for p in probes if p.reachable), key=lambda p: p.speed, reverse=True)
    official = next((p for p in fast if p.mirror.official), None)
    last = [mirror for mirror in known if mirror.official]
    others = [p.mirror for p in fast if not p.mirror.official]
    if not fast:
        return last or list(known), "the last resort"
    if official and (_good(official) or fast[0].speed <= _FASTER * official.speed):
        return [official.mirror, *others], f"the official place, {_figures(official)}"
    if not others:
        return last, "the only one that answered"
    return [*others, *last], f"the fastest, {_figures(fast[0])}"


def _serves(mirror: Mirror, probes: Sequence[Probe]) -> bool:
    return any(probe.reachable for probe in probes if probe.mirror == mirror)


def _good(probe: Probe) -> bool:
    return probe.mirror.official and probe.reachable and probe.seconds <= _GOOD


def _figures(probe: Probe) -> str:
    return f"{probe.seconds:.2f} s, {decimal(int(probe.speed))}/s"


def _ask(known: Sequence[Mirror], path: str | None, file: str | None, budget: float, *, patient: bool) -> list[Probe]:
    """What each mirror answered in ``budget`` seconds; unless ``patient``, until the official one is good enough."""
    answers: queue.SimpleQueue[Probe] = queue.SimpleQueue()
    begin = time.monotonic()
    http = client(httpx.Timeout(budget))

    def ask(mirror: Mirror) -> None:
        # A little less than the budget, so that what is half there counts.
        answers.put(_probe(http, mirror, path, file, begin + 0.9 * budget))

    def ask_all() -> None:
        threads = [threading.Thread(target=ask, args=(mirror,), daemon=True) for mirror in known]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        http.close()

    # Daemons: looking up a name can hang for much longer than the budget, and must not keep the process.
    threading.Thread(target=ask_all, daemon=True).start()
    probes: list[Probe] = []
    while len(probes) < len(known) and (left := begin + budget - time.monotonic()) > 0:
        try:
            probes.append(answers.get(timeout=left))
        except queue.Empty:
            break
        if _good(probes[-1]) and not patient:
            return probes
    answered = [probe.mirror for probe in probes]
    why = f"no answer within {budget:g} s"
    return probes + [
        Probe(mirror=mirror, reachable=False, seconds=budget, why=why) for mirror in known if mirror not in answered
    ]


def _probe(http: httpx.Client, mirror: Mirror, path: str | None, file: str | None, deadline: float) -> Probe:
    begin = time.monotonic()
    if path is None and mirror.layout == "index":  # a flat listing has no page of its own for torch
        path = _PROBES.get(mirror.kind)
    url = mirror.url if path is None else f"{mirror.url.rstrip('/')}/{path}"
    # Python's mirrors have no page that is known to be there: any answer shows that they live.
    page = path is not None or mirror.layout == "flat"
    size, found, rest = 0, file is None, ""
    try:
        with http.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK and (page or response.status_code >= 500):
                return Probe(mirror=mirror, reachable=False, seconds=0.0, why=f"HTTP {response.status_code}")
            for chunk in response.iter_raw():
                size += len(chunk)
                if file is not None:
                    rest = rest[-1000:] + chunk.decode("latin-1")  # a name may lie across two chunks
                    found = found or _listed(rest, file)
                if time.monotonic() > deadline or (found and (size >= _SAMPLE or file is not None)):
                    break
    except FAILURES as error:
        return Probe(mirror=mirror, reachable=False, seconds=time.monotonic() - begin, why=reason(error))
    seconds = max(time.monotonic() - begin, 1e-6)
    if not found:
        why = "its listing was too slow" if time.monotonic() > deadline else f"it does not list {file}"
        return Probe(mirror=mirror, reachable=False, seconds=seconds, why=why)
    return Probe(mirror=mirror, reachable=True, seconds=seconds, speed=size / seconds)


def _listed(page: str, pattern: str) -> bool:
    """Whether a file of that name is on the page; ``+`` may be written as ``%2B`` or ``&#43;``."""
    return any(fnmatchcase(name, pattern) for name in re.split(r"[\s\"'<>/=#]+", unquote(html.unescape(page))))
