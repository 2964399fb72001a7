"""Whether the service can start, and why not, in one sentence."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator

from dlenv.errors import DlenvError, StartError

__all__ = ["await_running", "explained", "failure_reason"]

POLL_S = 0.25

log = logging.getLogger("dlenv.service")


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
