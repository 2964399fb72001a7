"""Whether the service can start, and why not, in one sentence."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dlenv.errors import DlenvError, StartError
from dlenv.machine.system import memory_mib

__all__ = ["await_running", "check_memory", "explained", "failure_reason", "where_logs_are"]

POLL_S = 0.25
# Ray ends processes at 95 % of a limit (raylet/threshold_memory_monitor.cc), again and again, and Serve starts them
# again: with the models that ship on a CPU, a container of 1150 MiB serves, and one of 1000 MiB never does.
LEAST_MIB = 1100
ENDED_FOR_MEMORY = b"killed due to memory pressure"  # raylet.err

log = logging.getLogger("dlenv.service")


def check_memory(root: Path = Path("/")) -> None:
    """Make sure that there is the memory to start Ray and a service in.

    Raises:
        StartError: there is not.
    """
    here = memory_mib(root)
    if here < LEAST_MIB:
        raise StartError(
            f"Ray and a service take {LEAST_MIB} MiB of memory at least, and here are {here}; raise the limit (in "
            "Compose: DLENV_MEMORY), or do without Ray: --runtime local (DLENV_RUNTIME=local)"
        )


def where_logs_are(logs: Path) -> str:
    """A hint at Ray's logs, and what they say of memory."""
    hint = f"see Ray's logs in {logs}"
    with contextlib.suppress(OSError):
        if ENDED_FOR_MEMORY in (logs / "raylet.err").read_bytes():
            return f"Ray ended processes because memory ran out: give it more (in Compose: DLENV_MEMORY); {hint}"
    return hint


@contextlib.contextmanager
def explained(hint: Callable[[], str]) -> Iterator[None]:
    """Turn what Ray raises in here into a sentence; ``hint()`` says where more can be found.

    Raises:
        StartError: for any exception that isn't a :class:`DlenvError` already.
    """
    try:
        yield
    except DlenvError:
        raise
    except Exception as error:
        log.debug("Ray failed to start the service", exc_info=True)
        # A task's error holds the remote traceback; its cause is what was raised there.
        reason = str(getattr(error, "cause", error)).strip().partition("\n")[0]
        raise StartError(f"Ray can't start the service ({reason}); {hint()}") from None


def await_running(check: Callable[[], None], hint: Callable[[], str]) -> None:
    """Wait until the application runs; ``check`` is called between looks and may raise.

    Raises:
        StartError: it can't start; with the sentence of the replica's error, else with ``hint()``.
    """
    from ray import serve

    from dlenv_service.app import APP

    while (state := serve.status().applications[APP]).status != "RUNNING":
        if state.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            messages = [deployment.message for deployment in state.deployments.values()]
            reason = failure_reason("\n".join([state.message, *messages]))
            raise StartError(reason or f"the service can't start, for a reason that it doesn't tell; {hint()}")
        check()
        time.sleep(POLL_S)


def failure_reason(message: str) -> str | None:
    """The sentence of the :class:`DlenvError` in what Serve says about a failed deployment.

    Serve hands on the constructor's traceback as text, which ends in ``dlenv.errors.ModelInvalid: <sentence>``.
    """
    found = re.findall(r"dlenv\.errors\.\w+: (.+)", message)
    return str(found[-1]).strip() if found else None
