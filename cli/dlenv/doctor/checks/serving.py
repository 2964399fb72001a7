"""The serving half: its ports, what an earlier run left, whether it is healthy."""

from __future__ import annotations

from dlenv.doctor import shell
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Verdict, fail, ok, skip, warn


def ports(facts: Facts) -> Verdict:
    """Whether the ports that `dlenv serve` takes are free, or its own."""
    assert facts.ports is not None
    taken = [port for port in facts.ports if port.taken]
    if not taken:
        return ok(f"free: {', '.join(str(port.number) for port in facts.ports)}")
    if facts.service is not None and facts.service.status in (200, 503) and _runs(facts):
        return ok("taken by a running dlenv serve")
    said = "; ".join(f"{port.number} ({port.purpose}) is taken by {port.holder or 'another program'}" for port in taken)
    public = next((port for port in taken if port.purpose == "the service"), None)
    if public is None:
        return ok(f"{said}; dlenv serve takes others instead")
    return warn(said, f"dlenv serve --port {public.number + 1 if public.number < 65535 else 8000}")


def leftovers(facts: Facts) -> Verdict:
    """Whether processes of Ray's or HAProxy's are left of a service that is gone."""
    assert facts.processes is not None
    if _runs(facts):
        return ok("dlenv serve runs")
    left = facts.processes
    if not left:
        return ok("nothing is left of an earlier run")
    said = ", ".join(f"{process.name} (pid {process.pid}, for {process.seconds / 60:.0f} min)" for process in left[:8])
    text = f"no dlenv serve runs, and there is {said}; end it unless it is a Ray cluster that you use"
    return warn(text, shell.end(*(process.pid for process in left)))


def health(facts: Facts) -> Verdict:
    """Whether the service that runs here is ready."""
    if facts.service is None:
        return skip("nothing listens where dlenv serve does")
    if not _runs(facts):
        said = f"HTTP {facts.service.status}" if facts.service.status else facts.service.detail
        return skip(f"no dlenv serve of this user's runs; another program listens at {facts.service.url} ({said})")
    if facts.service.status == 200:
        return ok(f"{facts.service.url} is ready")
    if facts.service.status == 503:
        return warn(
            f"{facts.service.url} says that it is not ready: {facts.service.detail}", "wait; dlenv serve logs why"
        )
    if facts.service.status is None:
        return fail(f"{facts.service.url} takes connections and does not answer: {facts.service.detail}",
                    "restart dlenv serve")  # fmt: skip
    return skip(f"what listens at {facts.service.url} is not dlenv serve (HTTP {facts.service.status})")


def _runs(facts: Facts) -> bool:
    """Whether a process of this user's serves; an answer alone may be any program's."""
    return any(process.name == "dlenv serve" for process in facts.processes or ())
