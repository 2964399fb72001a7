"""The serving half: its ports, what an earlier run left, whether it is healthy."""

from __future__ import annotations

from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Verdict, fail, ok, skip, warn


def ports(facts: Facts) -> Verdict:
    """Whether the ports that `dlenv serve` takes are free, or its own."""
    assert facts.ports is not None
    taken = [port for port in facts.ports if port.taken]
    if not taken:
        return ok(f"free: {', '.join(str(port.number) for port in facts.ports)}")
    if facts.service is not None and facts.service.status in (200, 503):
        return ok("taken by a running dlenv serve")
    said = "; ".join(f"{port.number} ({port.purpose}) is taken by {port.holder or 'another program'}" for port in taken)
    public = next((port for port in taken if port.purpose == "the service"), None)
    if public is None:
        return ok(f"{said}; dlenv serve takes others instead")
    return warn(said, f"dlenv serve --port {public.number + 1}, or end what holds the port")


def leftovers(facts: Facts) -> Verdict:
    """Whether processes of Ray's or HAProxy's are left of a service that is gone."""
    assert facts.processes is not None
    if any(process.name == "dlenv serve" for process in facts.processes):
        return ok("dlenv serve runs")
    left = [process for process in facts.processes if process.name != "dlenv serve"]
    if not left:
        return ok("nothing is left of an earlier run")
    said = ", ".join(f"{process.name} (pid {process.pid}, for {process.seconds / 60:.0f} min)" for process in left[:8])
    pids = " ".join(str(process.pid) for process in left)
    return warn(f"no dlenv serve runs, and there is {said}", f"unless it is a Ray cluster that you use: kill {pids}")


def health(facts: Facts) -> Verdict:
    """Whether the service that runs here is ready."""
    if facts.service is None:
        return skip("nothing listens where dlenv serve does")
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
