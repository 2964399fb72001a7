"""What dlenv relies on in Ray beyond its documentation; a failure here says what a new Ray does differently."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Ray's own, of pydantic
    from ray import serve
    from ray.serve._private import constants, haproxy_templates, http_util, node_port_manager, proxy, replica
    from ray.serve.config import HTTPOptions

    from dlenv_service import arrangement, haproxy_guard, serve_fixes, short_way
    from dlenv_service.config import Settings


def source(thing: object) -> str:
    return inspect.getsource(thing)  # type: ignore[arg-type]


def test_the_hook_wraps_the_replicas_own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_util, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", short_way.HOOK)
    options = http_util.configure_http_middlewares(HTTPOptions())
    assert [each.cls for each in options.middlewares] == [short_way.ShortWay]
    assert "configure_http_middlewares" in source(replica.Replica._maybe_start_direct_ingress_servers)


def test_the_hook_also_wraps_serves_proxy() -> None:
    assert "configure_http_middlewares" in source(proxy)


@pytest.mark.parametrize("settings", [Settings(), Settings(replicas=2)], ids=["direct", "haproxy"])
def test_ray_reads_every_variable_that_is_set(settings: Settings, tmp_path: Path) -> None:
    known = source(constants)
    names = arrangement.arrange(settings, tmp_path).environment
    assert [name for name in names if name.startswith("RAY_SERVE_") and f'"{name}"' not in known] == []


def test_loopback_is_reached_through_the_switch_for_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants, services

    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    assert services.get_node_ip_address() == "127.0.0.1"


def test_the_highest_port_is_exclusive() -> None:
    ports = node_port_manager.PortAllocator(8000, 8001, "HTTP", "node")
    assert ports.allocate("first") == 8000
    with pytest.raises(node_port_manager.NoAvailablePortError):
        ports.allocate("second")


def test_the_internal_grpc_port_is_bound_by_the_name_that_we_replace() -> None:
    assert f'add_port_to_grpc_server(self._server, "{serve_fixes.EVERYWHERE}")' in source(
        replica.Replica._on_initialized
    )


def test_the_replicas_port_is_bound_by_the_names_that_we_replace() -> None:
    assert "await start_asgi_http_server(" in source(replica.Replica._maybe_start_direct_ingress_servers)
    assert "if enable_so_reuseport:\n        set_socket_reuse_port(sock)" in source(http_util.start_asgi_http_server)


def test_a_server_that_starts_is_returned_with_its_listeners() -> None:
    assert "return event_loop.create_task(server.serve(sockets=[sock])), server" in source(
        http_util.start_asgi_http_server
    )


def test_public_calls_are_there() -> None:
    assert "method_name" in inspect.signature(serve.handle.DeploymentHandle.broadcast).parameters
    assert callable(serve.get_deployment_actor)
    assert {"deployment_actors", "max_surge_percent"} <= set(inspect.signature(serve.deployment).parameters)


def haproxy_configuration() -> str:
    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    return template.replace("{{ config.metrics_port }}", "9101").replace("{{ config.stats_port }}", "8404")


def test_the_guard_knows_rays_haproxy_template() -> None:
    guarded = haproxy_guard.guard(haproxy_configuration())
    binds = re.findall(r"(?m)^\s*bind (\S+)", guarded)
    assert binds.count("127.0.0.1:9101") == 1
    assert binds.count("127.0.0.1:8404") == 1
    assert not [bind for bind in binds if bind.startswith((":", "*:"))]
    assert "mode 666" not in guarded
    assert "mode 600 level admin" in guarded
    assert haproxy_guard.HEADER_TIMEOUT in guarded
    assert haproxy_guard.guard(guarded) == guarded


@pytest.mark.parametrize("piece", ["listen stats", "frontend prometheus", "mode 666", "defaults"])
def test_the_guard_refuses_a_template_that_it_does_not_know(piece: str) -> None:
    with pytest.raises(ValueError, match="Ray has changed it"):
        haproxy_guard.guard(haproxy_configuration().replace(piece, "something else"))
