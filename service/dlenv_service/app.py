"""The Ray Serve deployment: :class:`dlenv_service.asgi.Service` as replicas that Serve places, scales and replaces.

Serve finds it by ``dlenv_service.app:build`` (``serve deploy``, ``serve run``), which takes the settings as arguments.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, DeploymentActorConfig
from ray.serve.schema import LoggingConfig

from dlenv.errors import StartError
from dlenv_service import desired, logs, request_id, scaling, short_way
from dlenv_service.config import Settings, load_settings
from dlenv_service.serve_fixes import fix_replica, stop_accepting, stop_fronts

if TYPE_CHECKING:  # torch is imported in replicas only: the launcher and Serve's controller start quicker without
    from dlenv_service.host import Document

__all__ = [
    "APP",
    "DEPLOYMENT",
    "Replica",
    "build",
    "given",
    "gpus_available",
    "gpus_per_replica",
    "max_surge_percent",
    "single_port",
]

APP = "dlenv"
DEPLOYMENT = "service"

# A replica that does not say for three checks in a row that it is well is replaced (ray/serve/_private/constants.py,
# REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD): one that hangs is found out within 18 s.
HEALTH_PERIOD_S = 3.0
HEALTH_TIMEOUT_S = 5.0
LAST_REQUESTS_S = 0.3


class Replica:
    """One replica: a :class:`Service`, and what Serve wants to know about it."""

    async def __init__(self, settings: dict[str, Any]) -> None:  # type: ignore[misc] # Serve awaits it
        from dlenv_service.asgi import Service
        from dlenv_service.server import AdminServer

        fix_replica()
        given = load_settings(settings)
        logs.set_up_replica(given)
        self._service = Service(given, replica=serve.get_replica_context().replica_tag)
        self._agreement = desired.Agreement(self._service)
        # An error here reaches the launcher as text; it looks for the DlenvError in it (cluster.py).
        self._admin = AdminServer(self._service) if self._service.settings.admin_address is not None else None
        await self._agreement.start()
        if self._admin is not None:
            await self._admin.start()
        short_way.adopt(self._service)

    def __serve_build_asgi_app__(self) -> request_id.App:
        return request_id.behind_serve(self._service)

    def names(self) -> list[str]:
        """The models that are loaded."""
        return sorted({served.name for served in self._service.host.loaded()})

    async def follow(self, document: Document) -> str | None:
        """Hold the models of ``document``; called on every replica when they change."""
        return await self._service.follow(document)

    async def reconfigure(self, user_config: Document) -> None:
        """Hold the models of ``user_config``, where a Serve config file has one; see :mod:`dlenv_service.desired`."""
        await self._service.apply(user_config)

    async def drain(self, port_too: bool) -> None:
        """Answer what was accepted; called on every replica before Serve stops.

        Args:
            port_too: refuse new connections, where clients reach this replica directly.
        """
        draining = asyncio.create_task(self._service.drain())
        await asyncio.sleep(0)  # answers say `Connection: close` from now on
        if port_too:
            await stop_accepting()
        await draining
        # Requests that were on their way on open connections; their answers close these.
        await asyncio.sleep(LAST_REQUESTS_S)
        await self._service.drain()

    def check_health(self) -> None:
        """Raise when the batcher makes no progress, so that Serve replaces this replica."""
        self._service.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Rows that wait; see :mod:`dlenv_service.scaling`."""
        return {scaling.METRIC: float(self._service.queued_rows)}

    async def __del__(self) -> None:
        short_way.adopt(None)
        if self._admin is not None:
            await self._admin.stop()
        await self._agreement.stop()
        await stop_fronts()
        await self._service.drain()
        await self._service.close()


def gpus_per_replica(settings: Settings, gpus: float) -> float:
    """GPUs that one replica asks for, where the cluster has ``gpus``.

    On a single GPU half of it, so that a new replica can warm up beside the one it replaces
    (:func:`max_surge_percent`).

    Raises:
        StartError: more is asked for than there is.
    """
    if settings.gpus_per_replica is not None:
        each = settings.gpus_per_replica
    elif settings.device == "cpu" or gpus == 0:
        each = 0.0
    else:
        each = 0.5 if gpus == 1 else 1.0
    if settings.device == "cuda" and gpus == 0:
        raise StartError("--device cuda: Ray found no GPU here; give --device cpu or auto")
    if each * settings.replicas > gpus:
        raise StartError(
            f"--replicas {settings.replicas} x {each:g} GPU each: Ray has {gpus:g} GPU; "
            "lower --replicas or --gpus-per-replica"
        )
    return each


def max_surge_percent(settings: Settings, each: float, gpus: float, single_port: bool) -> int:
    """Extra replicas that an update may start before it stops the old ones, in percent; 100 or 0.

    100 leaves no gap in which nothing answers. But Serve waits for the new replicas without a limit, so there must be
    room for all of them beside the old ones; CPU-only replicas ask for so little that there is.

    Args:
        settings: how many replicas there can be.
        each: GPUs that one replica asks for.
        gpus: GPUs of the cluster.
        single_port: a replica answers on the one public port itself, which the new one gets from the old one only.
    """
    if single_port:
        return 0
    if each == 0:
        return 100
    # Not `gpus / each`: what is left of two GPUs is no room for a replica that would have to spread over both.
    room = int(gpus) * math.floor(1 / each) if each < 1 else math.floor(gpus / each)
    most = settings.max_replicas or settings.replicas
    return 100 if 2 * most <= room else 0


def single_port(environment: Mapping[str, str]) -> bool:
    """Whether Ray has just one port for replicas, as with one replica on a Ray of our own (``direct``).

    See :mod:`dlenv_service.arrangement`. The settings don't tell it: those of an existing cluster look the same.
    """
    ends = [environment.get(f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT", "") for end in ("MIN", "MAX")]
    return all(end.isdecimal() for end in ends) and int(ends[1]) - int(ends[0]) == 1


def gpus_available() -> float:
    """GPUs of the whole cluster."""
    return float(ray.cluster_resources().get("GPU", 0.0))


def given(settings: Settings) -> dict[str, Any]:
    """The settings as :func:`build` takes them; those of the launcher alone stay out."""
    return settings.model_dump(mode="json", exclude_defaults=True, exclude={"address", "runtime"})


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application, from settings by name (``{"models": ["mnist-lenet"], "max_batch": 32}``).

    Raises:
        UsageError: unknown setting or value out of range.
        StartError: more GPUs are asked for than the cluster has.
    """
    settings = load_settings(arguments)
    available = gpus_available()
    gpus = gpus_per_replica(settings, available)
    scaled = settings.max_replicas is not None
    drain_s = settings.drain_timeout_ms / 1000
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=DEPLOYMENT,
        num_replicas=None if scaled else settings.replicas,
        autoscaling_config=_autoscaling(settings) if scaled else None,
        # CPU seconds are what the threads really use; a whole CPU each would refuse a third replica on two cores.
        ray_actor_options={"num_cpus": 0.1, "num_gpus": gpus},
        # Serve's default of 5 would refuse what our own queue has room for (ray/serve/_private/constants.py).
        max_ongoing_requests=settings.max_queue_rows,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        # Serve looks every `wait_loop` seconds whether requests are left, first after one such pause.
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=drain_s + 5,
        # A model that can't be loaded can't be loaded a second time: say so at once.
        max_constructor_retry_count=1,
        max_surge_percent=max_surge_percent(settings, gpus, available, single_port(os.environ)),
        logging_config=LoggingConfig(
            log_level=settings.log_level.upper(), encoding=settings.log_format.upper(), enable_access_log=False
        ),
        deployment_actors=[DeploymentActorConfig(name=desired.NAME, actor_class=desired.Desired)],
    )
    return deployment.bind(given(settings))


def _autoscaling(settings: Settings) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=settings.replicas,
        max_replicas=settings.max_replicas,
        policy=AutoscalingPolicy(
            policy_function="dlenv_service.scaling:QueuedRows",
            policy_kwargs={"rows": scaling.BATCHES_QUEUED * settings.max_batch},
        ),
        upscale_delay_s=10.0,
        downscale_delay_s=120.0,
    )
