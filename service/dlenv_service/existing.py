"""Deploying on a Ray cluster that somebody else keeps (``--address``), and the Serve config file for the same."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
import yaml
from ray import serve
from ray.exceptions import AuthenticationError
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dlenv.errors import DlenvError, StartError
from dlenv_models.own_ray import reach
from dlenv_service import exposure
from dlenv_service.app import APP, build, given
from dlenv_service.arrangement import cluster_environment
from dlenv_service.config import Settings
from dlenv_service.starting import await_running, explained

__all__ = ["config", "config_yaml", "deploy"]

Say = Callable[[str], None]
Facts = dict[str, Any]

# What a node has to have in common with the machine that deploys.
VERSIONS = ("dlenv", "ray", "python")
PROBE_TIMEOUT_S = 60.0
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - read, not bound
HINT = "see `serve status` and the cluster's logs"


def deploy(settings: Settings, say: Say) -> int:
    """Check every node, deploy, wait until the service runs, and leave it to the cluster.

    Raises:
        StartError: the cluster can't be reached, a node lacks something, or the service can't start.
    """
    _connect(str(settings.address))
    try:
        began = time.monotonic()
        say("Checking the cluster's nodes ...")
        check_nodes(_probe_all(settings), facts(settings))
        say("Deploying ...")
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        with explained(lambda: HINT):
            serve.start(http_options=HTTPOptions(host=settings.host, port=settings.port), proxy_location="EveryNode")
            _require_protection(settings)
            application = build(given(settings))
            serve.run_many([serve.RunTarget(application, name=APP)], wait_for_applications_running=False)
            await_running(lambda: None, lambda: HINT)
        say(
            f"Running on {settings.address} after {time.monotonic() - began:.1f} s; "
            f"it answers on {_url(settings)}, on the head and every node with a replica"
        )
        say(f"Stop it with: {_stop_command(str(settings.address))}")
    finally:
        ray.shutdown()
    return 0


def _require_protection(settings: Settings) -> None:
    """Refuse to deploy without keys on a Serve that listens where others reach it.

    Raises:
        StartError: it does, because it ran before and keeps its own host.
    """
    try:
        exposure.require_protection(
            settings.published_address or str(_get_global_client().http_config.host),
            published=settings.published_address is not None,
            protected=settings.keys is not None or settings.insecure,
            option="Serve's own host",
        )
    except ValueError as error:
        raise StartError(str(error)) from None


def _url(settings: Settings) -> str:
    """Where Serve's proxies answer. A Serve that ran before keeps its own host and port, whatever we ask for."""
    options = _get_global_client().http_config
    host = options.host
    if host in WILDCARDS:
        head = str(settings.address).rpartition(":")[0].strip("[]")
        host = head or ray.util.get_node_ip_address()
    return settings.model_copy(update={"host": host, "port": options.port}).url


def _stop_command(address: str) -> str:
    """What takes away our application alone; `serve shutdown` would end every other one of the cluster, too."""
    code = f"import ray; from ray import serve; ray.init({address!r}); serve.delete({APP!r})"
    return f'python -c "{code}"'


def _connect(address: str) -> None:
    reach(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except AuthenticationError:
        raise StartError(
            f"--address {address}: the cluster asks for its token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to it"
        ) from None
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise StartError(
            f"--address {address}: the Ray cluster there lets nobody in ({reason}); "
            "RAY_AUTH_MODE and RAY_AUTH_TOKEN must be the cluster's"
        ) from None


def facts(settings: Settings) -> Facts:
    """What this machine has: versions, variables of Ray, and the models in the repository."""
    from dlenv_models.repository import Repository

    try:
        entries = Repository(settings.repository).entries()
        models = sorted(f"{entry.name}/{entry.version}" for entry in entries if not entry.problem)
    except DlenvError as error:
        models = [f"unreadable: {error}"]
    return {
        "dlenv": importlib.metadata.version("dlenv"),
        "ray": ray.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "environment": {key: value for key, value in os.environ.items() if key.startswith("RAY_SERVE_")},
        "token": os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
        "models": models,
    }


def _probe_all(settings: Settings) -> dict[str, Facts | str]:
    """Facts of every live node, by its address; a text where it could not say."""
    probe = ray.remote(num_cpus=0)(facts)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {
        node["NodeManagerAddress"]: probe.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(settings)
        for node in nodes
    }
    answers: dict[str, Facts | str] = {}
    for address, answer in asked.items():
        try:
            answers[address] = ray.get(answer, timeout=PROBE_TIMEOUT_S)
        except ray.exceptions.RayTaskError as error:
            answers[address] = f"dlenv can't be used there ({type(error.cause).__name__}: {error.cause})"
        except (ray.exceptions.RayError, TimeoutError) as error:
            answers[address] = f"did not answer ({type(error).__name__})"
    return answers


def check_nodes(nodes: Mapping[str, Facts | str], here: Facts) -> None:
    """Compare what the nodes have with what this machine has and the service needs.

    Raises:
        StartError: one line with everything that is missing, by node.
    """
    missing = {address: _missing(found, here) for address, found in nodes.items()}
    missing = {address: lacks for address, lacks in missing.items() if lacks}
    if missing:
        listed = "; ".join(f"{address}: {', '.join(lacks)}" for address, lacks in missing.items())
        raise StartError(
            f"the cluster is not ready for dlenv ({listed}); put it right and restart Ray on these nodes, "
            "since Ray reads its variables only when it starts"
        )


def _missing(found: Facts | str, here: Facts) -> list[str]:
    if isinstance(found, str):
        return [found]
    lacks = [f"{name} is {found[name]}, here {here[name]}" for name in VERSIONS if found[name] != here[name]]
    for key, value in cluster_environment().items():
        if key.startswith("RAY_SERVE_") and found["environment"].get(key) != value:
            lacks.append(f"{key} is {found['environment'].get(key, 'not set')}, needs {value}")
    if not found["token"]:
        lacks.append("RAY_AUTH_MODE is not token, so whoever reaches the node can run code there")
    if found["models"] != here["models"]:
        lacks.append(_different_models(found["models"], here["models"]))
    return lacks


def _different_models(there: list[str], here: list[str]) -> str:
    absent = sorted(set(here) - set(there))
    if absent:
        return f"its repository lacks {', '.join(absent)}"
    return f"its repository also has {', '.join(sorted(set(there) - set(here)))}"


def config(settings: Settings) -> dict[str, Any]:
    """The application as a Serve config file, for ``serve deploy`` and ``serve run``."""
    return {
        "proxy_location": "EveryNode",
        # Serve's own default here is all interfaces (ray/serve/schema.py).
        "http_options": {"host": settings.host, "port": settings.port},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [
            {"name": APP, "route_prefix": "/", "import_path": "dlenv_service.app:build", "args": given(settings)}
        ],
    }


def config_yaml(settings: Settings) -> str:
    """:func:`config` as YAML, with what must be set before Ray starts as a comment."""
    needed = {**cluster_environment(), "RAY_AUTH_MODE": "token"}
    exports = "".join(f"#   export {key}={value}\n" for key, value in needed.items())
    return (
        "# Before `ray start`, on every node (Ray reads these only when it starts):\n"
        f"{exports}"
        "# Then, on the head node: serve deploy FILE\n"
        f"{yaml.safe_dump(config(settings), sort_keys=False)}"
    )
