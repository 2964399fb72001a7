"""A Ray and a Serve of our own: started, served from and stopped again, for ``dlenv serve``.

What listens afterwards, all of it on loopback unless the service itself was given another ``--host``:

- the public port: the replica (``direct``), HAProxy (``haproxy``) or Serve's Python proxy (``proxy``);
- with ``--host`` other than loopback also Serve's Python proxy, which in ``direct`` answers nobody but this machine,
  and in ``haproxy`` the replicas' own ports (from 30000 on): the same service, without HAProxy before it. Serve has
  one host for all of them;
- on loopback only: GCS, raylet, object manager, agents, and each worker's gRPC; all of Ray's ask for the run's token.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx

from dlenv.errors import StartError
from dlenv_service import keyfile, listener, logs, processes, signals
from dlenv_service.arrangement import HOOK_VARIABLE, RAY_FILES, Arrangement, arrange
from dlenv_service.config import Settings
from dlenv_service.run_directory import run_directory
from dlenv_service.starting import POLL_S, await_running, check_memory, explained, where_logs_are

__all__ = ["run_on_ray", "serve_config", "serve_config_yaml"]

Say = Callable[[str], None]

# Ray gets its processes down in about 2 s; what is still there after this is killed.
PATIENCE_S = 5.0
IMPATIENCE_S = 0.5  # where Ray has died, or the user hurries


def run_on_ray(settings: Settings, say: Say) -> int:
    """Serve on a Ray of our own until SIGINT or SIGTERM; on an existing cluster where ``settings.address`` names one.

    Returns:
        The exit code: 0 after an orderly end, 1 where Ray died underneath.

    Raises:
        StartError: the service can't start, in one sentence.
    """
    if settings.address is not None:
        from dlenv_service.existing import deploy

        return deploy(settings, say)
    check_memory()
    listener.check(settings.host, settings.port)
    if settings.keys is not None:
        keyfile.read(settings.keys)  # for its errors, which come in a moment and not with the replica
    with run_directory() as directory:
        launcher = Launcher(settings, say, arrange(settings, directory), directory)
        code = launcher.run()
    if launcher.connected:
        _leave(code)
    return code


def serve_config(settings: Settings) -> dict[str, Any]:
    """The same service as a Serve config file, for ``serve deploy`` on an existing cluster."""
    from dlenv_service.existing import config

    return config(settings)


def serve_config_yaml(settings: Settings) -> str:
    """:func:`serve_config` as YAML, with the variables that every node needs."""
    from dlenv_service.existing import config_yaml

    return config_yaml(settings)


class Launcher:
    """One life of Ray and the service on it."""

    def __init__(self, settings: Settings, say: Say, arrangement: Arrangement, directory: Path) -> None:
        self.settings = settings
        self.say = say
        self.arrangement = arrangement
        self.ray_files = directory / RAY_FILES
        self.connected = False  # to a Ray, be it a dead one
        self._serving = False

    def run(self) -> int:
        """Start, serve and stop."""
        with signals.raising(), self._quiet(), logs.forwarded(self.ray_files.parent):
            try:
                with explained(self._keep_logs):
                    self._start()
                died = self._serve()
            except signals.Stopped:
                died = False
            finally:
                self._stop()
        return 1 if died else 0

    def _start(self) -> None:
        # The hook is the one variable that may be switched off: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH= (empty).
        hook = {HOOK_VARIABLE: os.environ[HOOK_VARIABLE]} if HOOK_VARIABLE in os.environ else {}
        os.environ.update({**self.arrangement.environment, **hook})
        with self._step("Starting Ray"):
            self._start_ray()
        with self._step("Starting Serve"):
            self._start_serve()
        with self._step("Loading models"):
            self._deploy()
            names = ", ".join(self._wait_for_answer())
        self._serving = True
        self.say(f"Serving {names} on {self.settings.url}; Ctrl-C stops")

    def _start_ray(self) -> None:
        import ray

        self.connected = True
        group = os.getpgrp() if hasattr(os, "getpgrp") else None
        with _own_sessions():
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=self.settings.log_level == "debug",
                logging_level="WARNING",
                _temp_dir=str(self.ray_files),
            )
        # Ray moves us into a process group of our own (ray/_private/services.py `start_reaper`), where a terminal's
        # Ctrl-C no longer arrives when somebody started us (`make serve`). Its processes stay in that group.
        if group is not None and os.getpgrp() != group:
            os.setpgid(0, group)
        signals.install()  # Ray has put its own SIGTERM handler in place
        # For us alone, now that Ray's processes have their environment: a handle used outside of an event loop needs
        # one of its own (ray/serve/_private/default_impl.py `create_router`).
        os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"

    def _start_serve(self) -> None:
        from ray import serve  # sets its logger's level, so that has to come after
        from ray.serve.config import HTTPOptions
        from ray.serve.schema import LoggingConfig

        from dlenv_service.app import gpus_available, gpus_per_replica

        gpus_per_replica(self.settings, gpus_available())  # before the rest, if only for its errors
        if self.settings.log_level != "debug":
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(
            proxy_location="HeadOnly",
            http_options=HTTPOptions(host=self.settings.host, port=self.arrangement.proxy_port),
            logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
        )

    def _deploy(self) -> None:
        from ray import serve

        from dlenv_service.app import APP, build, given

        application = build(given(self.settings))
        serve.run_many([serve.RunTarget(application, name=APP)], wait_for_applications_running=False)
        await_running(self._check_ray, self._keep_logs)

    def _keep_logs(self) -> str:
        """Save Ray's logs from the clean-up; a hint at where they are."""
        logs = Path(tempfile.mkdtemp(prefix="dlenv-logs-"))
        with contextlib.suppress(OSError):
            shutil.copytree((self.ray_files / "session_latest" / "logs").resolve(), logs, dirs_exist_ok=True)
        return where_logs_are(logs)

    def _wait_for_answer(self) -> list[str]:
        """Wait until the public port answers, and ask a replica for its models.

        HAProxy learns of the replicas a moment after they run.
        """
        from ray import serve

        from dlenv_service.app import APP, DEPLOYMENT

        wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound
        host = wildcard.get(self.settings.host, self.settings.host)
        deadline = time.monotonic() + 60
        # No proxy from the environment stands between this machine and itself.
        with httpx.Client(base_url=self.settings.model_copy(update={"host": host}).url, trust_env=False) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/v2/health/ready").is_success:
                        # Not over HTTP, where it takes a key.
                        handle = serve.get_deployment_handle(DEPLOYMENT, APP)
                        return list(handle.names.remote().result(timeout_s=60))
                time.sleep(POLL_S)
        raise StartError(f"{self.settings.url} does not answer although the service runs; {self._keep_logs()}")

    def _serve(self) -> bool:
        """Wait for a signal; true where Ray died instead."""
        while True:
            try:
                self._check_ray()
            except StartError as error:
                self.say(f"{error}; stopping")
                return True
            time.sleep(POLL_S)

    def _check_ray(self) -> None:
        node = _global_node()
        dead = [name for name, _ in node.dead_processes()] if node is not None else ["ray"]
        if dead:
            raise StartError(f"Ray's {dead[0]} has died")

    def _stop(self) -> None:
        if not self.connected:
            return
        import ray

        began = time.monotonic()
        patience = IMPATIENCE_S
        try:
            if not self._dead():
                self.say("Stopping: answering what was accepted ... (again to hurry)" if self._serving else "Stopping")
                self._stop_serve()
                ray.shutdown()
                self.connected = False
                patience = PATIENCE_S
        except signals.Stopped:
            self.say("Hurrying")
        with signals.ignored():
            killed = processes.end(self.ray_files, patience)
        # Where Ray is gone but we are still connected, its own clean-up at exit would end us with an error.
        atexit.unregister(ray.shutdown)
        self.say(f"Stopped after {time.monotonic() - began:.1f} s" + (f" (killed {len(killed)})" if killed else ""))

    def _dead(self) -> bool:
        try:
            self._check_ray()
        except StartError:
            return True
        return False

    def _stop_serve(self) -> None:
        if "ray.serve" not in sys.modules:
            return
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        from dlenv_service.app import APP, DEPLOYMENT

        # A service that never ran has nothing to drain; one that can't drain any more must still stop.
        if self._serving:
            with contextlib.suppress(RayError, RayServeException, TimeoutError):
                timeout = self.settings.drain_timeout_ms / 1000 + 5
                handle = serve.get_deployment_handle(DEPLOYMENT, APP)
                if self.arrangement.kind == "haproxy":
                    processes.soft_stop_haproxy(self.ray_files)
                direct = self.arrangement.kind == "direct"
                handle.broadcast("drain", port_too=direct).results(timeout_s=timeout, return_exceptions=True)
        serve.shutdown()

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep Ray's own talk to itself, but for ``--log-level debug``.

        It prints what its processes think is an error on standard output, an orderly end included.
        """
        if self.settings.log_level == "debug":
            yield
            return
        logging.getLogger("ray").setLevel(logging.ERROR)
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield

    @contextlib.contextmanager
    def _step(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        self.say(f"{what} ...")
        yield
        self.say(f"{what}: {time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def _own_sessions() -> Iterator[None]:
    """Start Ray's processes in sessions of their own, on Linux.

    SIGTERM to our process group (a shell's ``kill %1``, coreutils' ``timeout``) is for us alone: with it the raylet
    would end under the requests that are still to be answered. Ray keeps a terminal's SIGINT from its processes in
    another way (ray/_private/services.py ``start_ray_process``). Elsewhere its reaper needs them in our group.
    """
    from ray._private import services

    if sys.platform != "linux":
        yield
        return
    start = services.ConsolePopen
    services.ConsolePopen = functools.partial(start, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = start


def _leave(code: int) -> NoReturn:
    """End the process here and now.

    Threads of Ray's that are still connected to what has died wait for it for 40 s, or make a segmentation fault of it,
    while Python takes itself apart.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _global_node() -> Any:
    import ray

    return ray._private.worker._global_node
