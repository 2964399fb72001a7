"""How many replicas the queue asks for."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["BATCHES_QUEUED", "METRIC", "QueuedRows"]

METRIC = "queued_rows"

# A replica keeps up while about one batch waits behind the one that runs; four waiting is four batch times of delay.
BATCHES_QUEUED = 4


class QueuedRows:
    """Autoscaling policy of Serve: at least one replica for every ``rows`` that wait, and one less when none does.

    Rows wait only while there are too few replicas: what waits says how many are missing, not how many are needed, so
    a short queue is no reason to take away those that keep it short.

    Serve calls it with its ``AutoscalingContext`` and then applies the smallest and largest number of replicas and
    the delays (ray/serve/autoscaling_policy.py, ``_apply_autoscaling_config``).
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Replicas wanted, and the state to keep (none)."""
        # The number that Serve is bringing about: while new ones start, fewer run, and they are wanted all the same.
        now: int = context.target_num_replicas
        reported = (context.aggregated_metrics or {}).get(METRIC)
        if not reported:  # no replica has said anything yet
            return now, {}
        waiting = sum(reported.values())
        # Serve's numbers are means over the last half minute: below one row, the queue was mostly empty.
        return (max(now, math.ceil(waiting / self.rows)) if waiting >= 1 else now - 1), {}
