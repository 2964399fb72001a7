"""How many replicas the queue asks for."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["BATCHES_QUEUED", "METRIC", "QueuedRows"]

METRIC = "queued_rows"

# A replica keeps up while about one batch waits behind the one that runs; four waiting is four batch times of delay.
BATCHES_QUEUED = 4


class QueuedRows:
    """Autoscaling policy of Serve: one replica for every ``rows`` that wait.

    Serve calls it with its ``AutoscalingContext`` and then applies the smallest and largest number of replicas and
    the delays (ray/serve/autoscaling_policy.py, ``_apply_autoscaling_config``).
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Replicas wanted, and the state to keep (none)."""
        waiting = sum((context.aggregated_metrics or {}).get(METRIC, {}).values())
        return math.ceil(waiting / self.rows), {}
