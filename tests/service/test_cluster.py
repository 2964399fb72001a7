"""The parts of the Ray deployment that need no Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from dlenv.errors import StartError
from dlenv_service import arrangement, processes, scaling, short_way
from dlenv_service.config import Settings
from dlenv_service.run_directory import run_directory
from dlenv_service.starting import LEAST_MIB, check_memory, explained, failure_reason, where_logs_are

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of pydantic, when it is imported


def test_the_replicas_sentence_is_found_in_serves_message() -> None:
    message = """The deployment failed to start 1 times in a row.
ray::ServeReplica:dlenv:service.initialize_and_get_metadata() (pid=1)
  File "host.py", line 5, in start
dlenv.errors.ModelInvalid: model 'x' can't be loaded: no weights; publish it again
"""
    assert failure_reason(message) == "model 'x' can't be loaded: no weights; publish it again"
    assert failure_reason("The deployment is waiting for resources") is None


@pytest.mark.parametrize("limit", ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"])
def test_a_container_with_too_little_memory_is_told_before_ray_starts(tmp_path: Path, limit: str) -> None:
    file = tmp_path / limit
    file.parent.mkdir(parents=True)
    file.write_text(f"{(LEAST_MIB - 1) << 20}\n")
    with pytest.raises(StartError, match=r"take 1100 MiB of memory at least, and here are 1099; raise .*DLENV_MEMORY"):
        check_memory(tmp_path)
    file.write_text(f"{LEAST_MIB << 20}\n")
    check_memory(tmp_path)


def test_what_ray_ended_for_want_of_memory_is_said(tmp_path: Path) -> None:
    assert where_logs_are(tmp_path) == f"see Ray's logs in {tmp_path}"
    (tmp_path / "raylet.err").write_text("42 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers\n")
    assert "because memory ran out: give it more (in Compose: DLENV_MEMORY)" in where_logs_are(tmp_path)


def test_what_ray_raises_becomes_a_sentence() -> None:
    sentence = r"^Ray can't start the service \(no room\); see the logs$"
    with pytest.raises(StartError, match=sentence) as error, explained(lambda: "see the logs"):
        raise RuntimeError("no room\nand a long story")
    assert error.value.__suppress_context__


class TestArrangement:
    def test_one_replica_has_the_public_port(self, tmp_path: Path) -> None:
        made = arrangement.arrange(Settings(port=8123), tmp_path)
        assert made.kind == "direct"
        assert made.proxy_port != 8123
        assert made.environment["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] == "8123"

    @pytest.mark.parametrize("settings", [Settings(replicas=2), Settings(max_replicas=3)])
    def test_several_are_behind_haproxy(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(arrangement, "find_haproxy", lambda: "/usr/sbin/haproxy")
        made = arrangement.arrange(settings, tmp_path)
        assert (made.kind, made.proxy_port) == ("haproxy", 8000)
        wrapper = Path(made.environment["RAY_SERVE_HAPROXY_BINARY_PATH"])
        assert stat.S_IMODE(wrapper.stat().st_mode) == 0o700
        assert "/usr/sbin/haproxy" in wrapper.read_text()

    def test_several_are_behind_serves_proxy_without_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arrangement, "find_haproxy", lambda: None)
        made = arrangement.arrange(Settings(replicas=2), tmp_path)
        assert made.kind == "proxy"
        assert made.environment["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"


class TestRunDirectory:
    def test_is_private_and_goes(self) -> None:
        with run_directory() as directory:
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert not directory.exists()

    def test_a_living_run_is_left_alone(self) -> None:
        with run_directory() as first, run_directory():
            assert first.exists()

    def dead(self, parent: Path, name: str = "dead") -> Path:
        """What a run that was killed leaves."""
        directory = parent / f"dlenv-run-{name}"
        directory.mkdir()
        (directory / "lock").touch()
        return directory

    @pytest.fixture
    def parent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("dlenv_service.run_directory.SHORT", str(tmp_path))
        return tmp_path

    def test_a_dead_one_goes(self, parent: Path) -> None:
        dead = self.dead(parent)
        with run_directory() as directory:
            assert directory.parent == parent
            assert not dead.exists()

    def test_another_users_is_left_alone(self, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        dead = self.dead(parent)
        owner = dead.stat().st_uid
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
        with run_directory():
            assert (dead / "lock").exists()

    def test_a_link_is_not_followed(self, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ended: list[Path] = []
        monkeypatch.setattr(processes, "end", lambda directory, patience_s: ended.append(directory))
        elsewhere = parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "lock").touch()
        (parent / "dlenv-run-link").symlink_to(elsewhere)
        with run_directory():
            assert ended == []
            assert (elsewhere / "lock").exists()

    def test_one_that_nobody_may_look_into_stops_nothing(self, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Root may look into everything, so mode 0 proves nothing here.
        shut, dead = self.dead(parent, "a-shut"), self.dead(parent)
        is_file = Path.is_file

        def refused(path: Path) -> bool:
            if path.parent == shut:
                raise PermissionError(13, "Permission denied", str(path))
            return is_file(path)

        monkeypatch.setattr(Path, "is_file", refused)
        with run_directory():
            assert shut.exists()
            assert not dead.exists()

    @pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
    def test_what_a_killed_run_left_is_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with run_directory() as directory:
            copy = Path(f"{directory}dead")
            (copy / arrangement.RAY_FILES).mkdir(parents=True)
            (copy / "lock").touch()
            left = subprocess.Popen(
                ["sleep", "60"], env={**os.environ, "RAY_TMPDIR": str(copy / arrangement.RAY_FILES)}
            )
        with run_directory():
            assert left.wait(5) == -signal.SIGTERM
        assert not copy.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_that_ignores_the_first_signal_is_killed(tmp_path: Path) -> None:
    command = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        ["sh", "-c", command], env={**os.environ, "RAY_TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE
    ) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        assert stubborn.pid in processes.end(tmp_path, patience_s=0.3)
        assert stubborn.wait(5) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
class TestProcessesByOpenFile:
    """Without the run's variable in their environment."""

    # As Ray names its own: the title of a Python process reaches /proc/PID/comm.
    TITLED = "import sys, time; open('/proc/self/comm', 'w').write(sys.argv[1]); print(flush=True); time.sleep(60)"
    PLAIN = "import sys, time; print(flush=True); time.sleep(60)"

    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        path = tmp_path / "run" / "logs" / "raylet.out"
        path.parent.mkdir(parents=True)
        path.write_text("a line\n")
        return path

    @contextlib.contextmanager
    def holding(self, log: Path, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
        """A process that has the log open, and has begun."""
        with log.open() as file, subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()
                yield process
            finally:
                process.kill()

    def test_somebody_who_reads_a_log_lives_on(self, log: Path) -> None:
        with self.holding(log, "tail", "-f", log) as tail, self.holding(log, sys.executable, "-c", self.PLAIN) as own:
            assert processes.of_run(log.parents[1]) == []
            assert processes.end(log.parents[1], patience_s=0.3) == []
            assert tail.poll() is None
            assert own.poll() is None

    @pytest.mark.parametrize("title", ["ray::IDLE", "ray::ServeReplica:dlenv:service"[:15], "raylet", "haproxy"])
    def test_rays_own_are_ended(self, log: Path, title: str) -> None:
        with self.holding(log, sys.executable, "-c", self.TITLED, title) as process:
            assert processes.of_run(log.parents[1]) == [process.pid]
            processes.end(log.parents[1], patience_s=5)
            assert process.wait(5) == -signal.SIGTERM

    def test_rays_own_by_their_script(self, log: Path, tmp_path: Path) -> None:
        script = tmp_path / "site-packages" / "ray" / "dashboard" / "agent.py"
        script.parent.mkdir(parents=True)
        script.write_text(f"{self.PLAIN}\n")
        with self.holding(log, sys.executable, "-u", script) as agent, self.holding(log, "tail", "-f", script):
            assert processes.of_run(log.parents[1]) == [agent.pid]

    def test_those_of_another_run_are_left_alone(self, log: Path, tmp_path: Path) -> None:
        with self.holding(log, sys.executable, "-c", self.TITLED, "ray::IDLE"):
            assert processes.of_run(tmp_path / "ru") == []


class TestScaling:
    @pytest.mark.parametrize(
        ("now", "waiting", "wanted"),
        [
            (1, [1.0], 1),  # a queue that one replica copes with
            (1, [256.0], 1),
            (1, [257.0], 2),
            (1, [256.0, 513.0], 4),
            (4, [257.0], 4),  # short because there are four
            (4, [1.0, 0.0], 4),
            (4, [0.0, 0.0], 3),
            (4, [0.3, 0.2], 3),  # means: empty most of the time
            (1, [0.0], 0),  # Serve keeps the smallest number
            (3, [], 3),  # nobody has reported
        ],
    )
    def test_replicas_for_the_rows_that_wait(self, now: int, waiting: list[float], wanted: int) -> None:
        context = SimpleNamespace(
            aggregated_metrics={scaling.METRIC: dict(enumerate(waiting))},
            target_num_replicas=now,
            current_num_replicas=1,
        )
        assert scaling.QueuedRows(256)(context) == (wanted, {})

    def test_before_there_are_numbers(self) -> None:
        context = SimpleNamespace(aggregated_metrics=None, target_num_replicas=2)
        assert scaling.QueuedRows(256)(context) == (2, {})


class TestShortWay:
    class Service:
        def answers_here(self, scope: Any) -> bool:
            return bool(scope["path"] == "/mine")

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"from": "service"})

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"from": "serve"})

    def ask(self, path: str, client: str = "127.0.0.1", hook: str = "middlewares") -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError

        app: Any = self.serve
        for middleware in getattr(short_way, hook)():
            app = middleware.cls(app)
        asyncio.run(app({"type": "http", "path": path, "headers": [], "client": (client, 1)}, receive, send))
        return sent

    def test_the_service_answers_what_it_can(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.ask("/mine") == [{"from": "serve"}]
        monkeypatch.setattr(short_way, "_service", self.Service())
        assert self.ask("/mine") == [{"from": "service"}]
        assert self.ask("/other") == [{"from": "serve"}]

    def test_serves_own_proxy_answers_this_machine_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.ask("/mine", "192.0.2.1", "only_this_machine")[0]["status"] == 403
        assert self.ask("/mine", "127.0.0.1", "only_this_machine") == [{"from": "serve"}]
        monkeypatch.setattr(short_way, "_service", self.Service())
        assert self.ask("/mine", "192.0.2.1", "only_this_machine") == [{"from": "service"}]


class TestGpus:
    @pytest.mark.parametrize(
        ("flags", "gpus", "each"),
        [
            ({}, 0, 0.0),
            ({}, 1, 0.5),
            ({"replicas": 2}, 1, 0.5),
            ({"replicas": 4}, 4, 1.0),
            ({"device": "cpu"}, 1, 0.0),
            ({"gpus_per_replica": 0.25, "replicas": 4}, 1, 0.25),
        ],
    )
    def test_per_replica(self, flags: dict[str, Any], gpus: float, each: float) -> None:
        from dlenv_service.app import gpus_per_replica

        assert gpus_per_replica(Settings(**flags), gpus) == each

    @pytest.mark.parametrize(
        ("flags", "gpus", "sentence"),
        [
            ({"device": "cuda"}, 0, "--device cuda: Ray found no GPU"),
            ({"replicas": 3}, 1, "--replicas 3 x 0.5 GPU each: Ray has 1 GPU"),
            ({"gpus_per_replica": 1}, 0, "--replicas 1 x 1 GPU each: Ray has 0 GPU"),
        ],
    )
    def test_that_are_not_there(self, flags: dict[str, Any], gpus: float, sentence: str) -> None:
        from dlenv_service.app import gpus_per_replica

        with pytest.raises(StartError, match=sentence):
            gpus_per_replica(Settings(**flags), gpus)


class TestSurge:
    @pytest.mark.parametrize(
        ("flags", "each", "gpus", "percent"),
        [
            ({}, 0.5, 1, 100),  # the other half is free
            ({"replicas": 2}, 0.5, 1, 0),  # two halves fill it
            ({"replicas": 2}, 0.25, 1, 100),
            ({"replicas": 2}, 1, 4, 100),
            ({"replicas": 3}, 1, 4, 0),
            ({}, 2, 3, 0),
            ({"replicas": 2}, 0.75, 3, 0),  # half of the GPUs, but three replicas are all that fit
            ({"max_replicas": 2}, 0.5, 1, 0),  # room for two, not for four
            ({"max_replicas": 2}, 0.5, 2, 100),
            ({}, 0, 0, 100),
            ({"replicas": 8}, 0, 0, 100),
        ],
    )
    def test_where_new_ones_fit_beside_the_old(
        self, flags: dict[str, Any], each: float, gpus: float, percent: int
    ) -> None:
        from dlenv_service.app import max_surge_percent

        settings = Settings(**flags)
        assert max_surge_percent(settings, each, gpus, single_port=False) == percent
        assert max_surge_percent(settings, each, gpus, single_port=True) == 0

    @pytest.mark.parametrize(("flags", "single"), [({}, True), ({"replicas": 2}, False), ({"max_replicas": 2}, False)])
    def test_the_port_of_an_arrangement(self, flags: dict[str, Any], single: bool, tmp_path: Path) -> None:
        from dlenv_service.app import single_port

        assert single_port(arrangement.arrange(Settings(**flags), tmp_path).environment) is single

    def test_the_ports_of_an_existing_cluster(self) -> None:
        from dlenv_service.app import single_port

        assert not single_port(arrangement.cluster_environment())
        ports = {f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT": port for end, port in (("MIN", "3"), ("MAX", "9"))}
        assert not single_port(ports)


class TestWhereItRuns:
    @pytest.mark.parametrize(
        ("address", "host", "url"),
        [
            ("10.0.0.1:6379", "127.0.0.1", "http://127.0.0.1:8123"),
            ("10.0.0.1:6379", "0.0.0.0", "http://10.0.0.1:8123"),
            ("[fd00::1]:6379", "::", "http://[fd00::1]:8123"),
            ("auto", "0.0.0.0", "http://10.0.0.9:8123"),
        ],
    )
    def test_serves_own_host_and_port_count(
        self, address: str, host: str, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import ray

        from dlenv_service import existing

        client = SimpleNamespace(http_config=SimpleNamespace(host=host, port=8123))
        monkeypatch.setattr(existing, "_get_global_client", lambda: client)
        monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.9")
        assert existing._url(Settings(address=address, port=8000)) == url

    def test_the_command_takes_away_ours_alone(self) -> None:
        from dlenv_service.existing import _stop_command

        program, option, code = shlex.split(_stop_command("10.0.0.1:6379"))
        assert (program, option) == ("python", "-c")
        compile(code, "command", "exec")
        assert code.endswith("ray.init('10.0.0.1:6379'); serve.delete('dlenv')")


class TestDesired:
    def test_changes_get_an_order(self) -> None:
        from dlenv_service.desired import DesiredDocument

        desired = DesiredDocument()
        first, second = {"generation": 1, "models": {"a": [1]}}, {"generation": 2, "models": {"a": [1], "b": [1]}}
        rival = {"generation": 2, "models": {}}
        assert desired.newest() is None
        assert desired.compare(first) == first
        assert desired.propose(second) == second
        assert desired.propose(rival) is None
        assert desired.compare(first) == second

    def test_one_that_was_replaced_learns_from_the_replicas(self) -> None:
        from dlenv_service.desired import DesiredDocument

        known = {"generation": 7, "models": {"a": [1]}}
        assert DesiredDocument().compare(known) == known


class TestNodes:
    HERE: ClassVar = {
        "dlenv": "1",
        "ray": "2.60.0",
        "python": "3.11",
        "environment": {},
        "token": True,
        "models": ["a/1"],
    }

    def node(self, **changes: Any) -> dict[str, Any]:
        return {**self.HERE, "environment": arrangement.cluster_environment(), **changes}

    def test_all_alike(self) -> None:
        from dlenv_service.existing import check_nodes

        check_nodes({"10.0.0.1": self.node(), "10.0.0.2": self.node()}, self.HERE)

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"dlenv": "0"}, "dlenv is 0, here 1"),
            ({"python": "3.10"}, "python is 3.10, here 3.11"),
            ({"environment": {}}, "RAY_SERVE_ENABLE_HA_PROXY is not set, needs 1"),
            ({"token": False}, "RAY_AUTH_MODE is not token"),
            ({"models": []}, "its repository lacks a/1"),
            ({"models": ["a/1", "b/1"]}, "its repository also has b/1"),
        ],
    )
    def test_what_a_node_lacks_is_named(self, changes: dict[str, Any], named: str) -> None:
        from dlenv_service.existing import check_nodes

        with pytest.raises(StartError, match=f"10.0.0.2: .*{named}") as error:
            check_nodes({"10.0.0.1": self.node(), "10.0.0.2": self.node(**changes)}, self.HERE)
        assert "10.0.0.1" not in str(error.value)
