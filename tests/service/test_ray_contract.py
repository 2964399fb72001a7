"""What dlenv relies on in Ray beyond its documentation; a failure here says what a new Ray does differently."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path

import pytest
import uvicorn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Ray's own, of pydantic
    from ray import serve
    from ray.serve import autoscaling_policy
    from ray.serve._private import (
        autoscaling_state,
        client,
        constants,
        deployment_state,
        haproxy_templates,
        http_util,
        node_port_manager,
        proxy,
        replica,
    )
    from ray.serve.config import AutoscalingConfig, AutoscalingContext, HTTPOptions

    from dlenv_service import arrangement, haproxy_guard, processes, scaling, serve_fixes, short_way
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
    start = source(http_util.start_asgi_http_server)
    assert "if enable_so_reuseport:\n        set_socket_reuse_port(sock)" in start
    # The server reads its protocol from `config.http` when it first runs: nothing is awaited before it is returned.
    assert start.endswith("return event_loop.create_task(server.serve(sockets=[sock])), server\n")
    assert "await" not in start.partition(":\n")[2]
    assert "if not config.loaded:\n            config.load()" in source(uvicorn.Server)


def test_a_server_that_starts_is_returned_with_its_listeners() -> None:
    assert "return event_loop.create_task(server.serve(sockets=[sock])), server" in source(
        http_util.start_asgi_http_server
    )


def test_public_calls_are_there() -> None:
    assert "method_name" in inspect.signature(serve.handle.DeploymentHandle.broadcast).parameters
    assert callable(serve.get_deployment_actor)
    assert {"deployment_actors", "max_surge_percent"} <= set(inspect.signature(serve.deployment).parameters)


def test_the_policy_is_told_the_number_that_serve_is_bringing_about() -> None:
    assert {"target_num_replicas", "aggregated_metrics"} <= set(inspect.signature(AutoscalingContext).parameters)
    told = source(autoscaling_state.DeploymentAutoscalingState.get_autoscaling_context)
    assert "target_num_replicas=curr_target_num_replicas" in told
    # Delays count against the same number, so wanting it changes nothing.
    assert "desired_num_replicas < curr_target_num_replicas" in source(autoscaling_policy._apply_delay_logic)


def test_the_policy_keeps_its_number_through_serves_own_rules() -> None:
    settings = AutoscalingConfig(min_replicas=1, max_replicas=4, upscale_delay_s=0, downscale_delay_s=0)
    policy = autoscaling_policy._apply_autoscaling_config(scaling.QueuedRows(256))

    def wanted(target: int, running: int, waiting: float) -> int:
        names = inspect.signature(AutoscalingContext).parameters
        given = {
            "current_num_replicas": running,
            "target_num_replicas": target,
            "aggregated_metrics": {scaling.METRIC: {"a": waiting}},
            "capacity_adjusted_min_replicas": 1,
            "capacity_adjusted_max_replicas": 4,
            "policy_state": {},
            "config": settings,
        }
        return int(policy(AutoscalingContext(**{name: given.get(name) for name in names}))[0])

    assert wanted(1, 1, 700) == 3
    assert wanted(3, 1, 700) == 3  # two still start
    assert wanted(3, 1, 10) == 3
    assert wanted(3, 3, 10) == 3
    assert wanted(3, 3, 0) == 2
    # The smallest and largest number come last, whatever the policy says.
    assert "apply_bounds" in source(autoscaling_state.DeploymentAutoscalingState.get_decision_num_replicas)


def test_an_update_waits_for_the_new_replicas_without_a_limit() -> None:
    assert "without reducing running capacity below target" in source(
        deployment_state.DeploymentState._surge_replicas_to_stop
    )


def test_ray_reads_the_ports_of_replicas_from_the_variables_that_we_read() -> None:
    for end in ("MIN", "MAX"):
        assert f'"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"' in source(constants)


def test_serve_tells_where_it_listens() -> None:
    assert isinstance(inspect.getattr_static(client.ServeControllerClient, "http_config"), property)


def test_rays_processes_are_known_by_their_names() -> None:
    from ray._private import ray_constants, services

    titles = [value for name, value in vars(ray_constants).items() if "_PROCESS_TYPE_" in name and "::" in str(value)]
    assert len(titles) > 5
    assert all(title.startswith(processes.TITLES) for title in titles)
    for program in (services.GCS_SERVER_EXECUTABLE, services.RAYLET_EXECUTABLE):
        assert Path(program).name in processes.NAMES
    home = Path(services.__file__).parents[1]
    scripts = [
        "dashboard/agent.py",
        "dashboard/dashboard.py",
        "autoscaler/_private/monitor.py",
        "_private/log_monitor.py",
        "_private/runtime_env/agent/main.py",
        "_private/workers/default_worker.py",
    ]
    for script in scripts:
        assert (home / script).is_file()
        assert processes.SCRIPT.search(str(home / script))


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
