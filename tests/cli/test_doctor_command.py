"""``dlenv doctor`` as a command: contract, exit codes, faults in checks, --fix, the report."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlenv import probe
from dlenv.doctor import fix, gather, report
from dlenv.doctor.examine import examine
from dlenv.doctor.facts import Endpoint, Facts, Port, Process, Service, Target
from dlenv.doctor.model import Finding, Repair, Step, ok
from dlenv.doctor.redact import redact
from dlenv.doctor.registry import CHECKS, Check, select
from dlenv.doctor.target import choose
from dlenv.environment.distributions import Distribution
from dlenv.errors import UsageError
from dlenv.machine import Disk, Gpu, GpuProcess, Machine, Nvml
from dlenv.probe import Report, Stage

Run = Callable[..., Any]
STATUSES = {"ok", "warn", "fail", "skip", "error"}
QUICK = ("--only", "system.platform", "--only", "python.start", "--offline")


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """An environment that holds nothing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    return tmp_path / "env"


def test_json_contract(run: Run, env: Path, without_driver: None) -> None:
    result = run("doctor", "--env", env, "--json", "--offline")
    data = json.loads(result.stdout)
    assert list(data) == ["schema", "ok", "machine", "environment", "checks"]
    assert (data["schema"], data["ok"], data["environment"]) == (1, False, str(env))
    assert list(data["machine"]) == ["os", "arch", "python", "cuda_driver", "driver", "gpus"]
    assert [check["id"] for check in data["checks"]] == [check.id for check in CHECKS]
    for check in data["checks"]:
        assert list(check) == ["id", "status", "title", "detail", "fix"]
        assert check["status"] in STATUSES
        assert isinstance(check["detail"], str)
        assert check["fix"] is None or isinstance(check["fix"], str)
    # An environment without PyTorch fails, and says so.
    assert result.code == 1
    assert {check["id"] for check in data["checks"] if check["status"] == "fail"} == {
        "torch.import",
    }
    assert not [check for check in data["checks"] if check["status"] == "error"]


def test_json_has_the_gpus(run: Run, env: Path, with_gpus: Callable[..., Any]) -> None:
    with_gpus(driver="550.54.14", cuda="12.4", gpus=[("NVIDIA GeForce RTX 4060", "8.9", 8188)])
    data = json.loads(run("doctor", "--env", env, "--json", "--only", "gpu.health").stdout)
    machine = data["machine"]
    assert (machine["driver"], machine["cuda_driver"]) == ("550.54.14", "12.4")
    assert machine["gpus"] == [{"name": "NVIDIA GeForce RTX 4060", "compute_capability": "8.9", "memory_mib": 8188}]


def test_a_pipe_gets_a_line_for_each_check(run: Run, env: Path) -> None:
    result = run("doctor", "--env", env, *QUICK)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines[0] == ["status", "check", "title", "detail", "fix"]
    assert [line[1] for line in lines[1:]] == ["system.platform", "python.start"]
    assert result.stderr.splitlines()[-1] == "Nothing is wrong: 2 checks, 2 fine."
    assert result.code == 0


def test_a_terminal_gets_what_is_wrong(run: Run, env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    only = ("--only", "torch.import", "--only", "python.start", "--offline")
    shown = run("doctor", "--env", env, *only).stdout
    assert "PyTorch is not installed in this environment" in shown
    assert "torch.import\x1b[0m: " in shown  # the fix, in one line
    assert "python.start" not in shown
    assert "python.start" in run("doctor", "--env", env, *only, "--verbose").stdout


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_found_cannot_steer_the_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    found = Finding(id="a.b", status="fail", title="t", detail="x\x1b[2J\ny", fix="rm '\x1b[2J\n'")
    report.print_findings([found], verbose=False)
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "x\\x1b[2J y" in shown  # the same in both, and in one line
    assert "rm '\\x1b[2J" in shown


def test_list_and_groups(run: Run) -> None:
    listed = run("doctor", "--list")
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()[1:]] == [check.id for check in CHECKS]
    some = json.loads(run("doctor", "--list", "--json", "--only", "gpu").stdout)
    assert [item["id"] for item in some] == [check.id for check in CHECKS if check.group == "gpu"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--only", "torch.biuld"), "there is no check 'torch.biuld'; there is driver.nvml, "),
        (("--env", "/usr/share"), "/usr/share is not a Python environment"),
        (("--python", "/usr/no-such-python"), "/usr/no-such-python is not there"),
        (("--env", "/usr", "--python", "/usr/bin/python3"), "give one of them"),
        (("torch.build",), "'torch.build' is no option; a check is chosen by --only torch.build"),
        (("--nonsense",), "No such option"),
        (("--list", "--fix"), "--list examines nothing, so --fix makes no sense with it"),
        (("--list", "--env", "/nowhere"), "--list examines nothing, so --env makes no sense with it"),
        (("--list", "--report", "r.md", "--json"), "--list examines nothing, so --report makes no sense with it"),
        (("--list", "-v"), "--list examines nothing, so --verbose makes no sense with it"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(run: Run, words: tuple[str, ...], reason: str) -> None:
    result = run("doctor", *words)
    assert (result.code, result.stdout) == (2, "")
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


def test_which_environment(env: Path, tmp_path: Path) -> None:
    assert choose(None, None, {"VIRTUAL_ENV": str(env)}, tmp_path).env == env
    assert choose(None, None, {"CONDA_PREFIX": str(env)}, tmp_path).why == "CONDA_PREFIX"
    (tmp_path / "work").mkdir()
    env.rename(tmp_path / "work" / ".venv")
    assert choose(None, None, {}, tmp_path / "work").env == tmp_path / "work" / ".venv"
    assert choose(None, None, {}, tmp_path).python == Path(sys.executable)
    by_python = choose(None, tmp_path / "work" / ".venv" / "bin" / "python", {}, tmp_path)
    assert (by_python.env, by_python.kind) == (tmp_path / "work" / ".venv", "venv")
    (tmp_path / "conda" / "conda-meta").mkdir(parents=True)
    assert choose(tmp_path / "conda", None, {}, tmp_path).kind == "conda"


def test_the_current_folder_was_removed(run: Run, env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run("doctor", "--env", env, "--only", "python", "--offline").code == 0
    monkeypatch.chdir(tmp_path)


def facts(**fields: Any) -> Facts:
    return Facts(target=Target(python=Path("/env/bin/python"), env=Path("/env"), kind="venv"), **fields)


def check(function: Callable[[Facts], Any], **fields: Any) -> Check:
    return Check(id="made.up", title="made up", function=function, **fields)


def test_a_check_that_fails_is_a_finding_and_not_a_failure() -> None:
    def broken(_: Facts) -> Any:
        raise KeyError("nvml")

    findings = examine(facts(), [check(broken), check(lambda _: ok("fine"))])
    assert [(finding.status, finding.detail) for finding in findings] == [
        ("error", "the check failed: KeyError: 'nvml'"),
        ("ok", "fine"),
    ]
    assert report.is_ok(findings) is False


def test_a_check_that_hangs_is_a_finding() -> None:
    began = time.monotonic()
    (finding,) = examine(facts(), [check(lambda _: time.sleep(60))], limit=0.2)
    assert (finding.status, finding.detail) == ("error", "the check did not end within 0.2 s")
    assert time.monotonic() - began < 5


def test_what_could_not_be_found_out_is_an_error_and_what_was_not_asked_is_skipped() -> None:
    wanting = check(lambda _: ok("fine"), needs=("machine",))
    (finding,) = examine(facts(missing={"machine": "it did not answer within 30 s"}), [wanting])
    assert (finding.status, finding.detail) == ("error", "machine: it did not answer within 30 s")
    (finding,) = examine(facts(missing={"machine": "--offline: nothing was asked"}), [wanting])
    assert finding.status == "skip"


def test_a_source_that_fails_or_hangs_ends_nothing(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> Any:
        raise OSError("the machine is on fire")

    monkeypatch.setattr(gather, "inspect", broken)
    monkeypatch.setattr(gather.services, "ports", lambda _: time.sleep(60))
    monkeypatch.setitem(gather._LIMITS, "ports", 0.2)
    target = Target(python=env / "bin" / "python", env=env, kind="venv")
    checks = select(["driver.nvml", "python.start", "serving.ports"])
    statuses = [finding.status for finding in examine(gather.gather(target, checks, Path()), checks)]
    assert statuses == ["error", "ok", "error"]


# Neither a path nor a variable can hold a null character.
TEXT = st.text(st.characters(exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["12.4", "580.65.06", "", "8.9", "sm_90", "numpy (==1.2)", "\x1b[2J"]
)
ANY = st.none() | st.booleans() | st.integers(-5, 2**40) | TEXT | st.lists(TEXT, max_size=3)
KEYS = ["version", "cuda", "architectures", "available", "devices", "kernels", "missing", "paths", "threads", "prefix"]
STAGES = st.builds(
    Stage,
    name=st.sampled_from(probe.FACTS),
    status=st.sampled_from(["ok", "failed", "crashed", "timeout", "absent", "skipped"]),
    facts=st.dictionaries(
        st.sampled_from(KEYS),
        ANY,
    ),
    error=st.none() | TEXT,
    output=TEXT,
)
GPUS = st.builds(
    Gpu,
    index=st.integers(0, 9),
    name=TEXT,
    compute_capability=st.none() | TEXT,
    memory_mib=st.none() | st.integers(0, 10**6),
    memory_free_mib=st.none() | st.integers(0, 10**6),
    mig=st.booleans(),
    compute_mode=st.none() | st.sampled_from(["default", "prohibited"]),
    processes=st.lists(st.builds(GpuProcess, pid=st.integers(1, 9)), max_size=2).map(tuple),
    problem=st.none() | TEXT,
)
MACHINES = st.builds(
    Machine,
    os=st.sampled_from(["linux", "windows", "macos", "other"]),
    os_version=TEXT,
    kernel=TEXT,
    arch=TEXT,
    libc=st.none() | st.tuples(st.sampled_from(["glibc", "musl"]), TEXT),
    python=TEXT,
    cpus=st.integers(0, 999),
    driver=st.none() | TEXT,
    nvml=st.builds(Nvml, status=st.sampled_from(["ok", "mismatch", "failed", "library-missing"]), detail=TEXT),
    gpus=st.lists(GPUS, max_size=3).map(tuple),
    nvidia_pci=st.lists(TEXT, max_size=1).map(tuple),
    nouveau=st.booleans(),
    wsl=st.integers(0, 2),
    container=st.none() | TEXT,
    disks=st.lists(
        st.builds(
            Disk,
            purpose=st.sampled_from(["environment", "shared-memory"]),
            path=TEXT,
            free_mib=st.integers(0, 9),
            total_mib=st.integers(0, 9),
            device=st.just(1),
        ),
        max_size=2,
    ).map(tuple),
    cuda_visible_devices=st.none() | TEXT,
)
DISTRIBUTIONS = st.builds(
    Distribution,
    name=st.sampled_from(["torch", "d2l", "numpy", "x"]),
    version=st.none() | TEXT,
    location=TEXT,
    metadata=TEXT,
    requires=st.lists(TEXT, max_size=3).map(tuple),
)
FACTS = st.builds(
    Facts,
    target=st.just(Target(python=Path("/env/bin/python"), env=Path("/nowhere/env"), kind="venv")),
    environ=st.dictionaries(
        st.sampled_from(["OMP_NUM_THREADS", "LD_LIBRARY_PATH", "PYTHONPATH", "SSL_CERT_FILE"]), TEXT
    ),
    machine=st.none() | MACHINES,
    report=st.none()
    | st.builds(
        Report,
        python=TEXT,
        level=st.just("facts"),
        stages=st.lists(STAGES, max_size=9).map(tuple),
        problem=st.none() | TEXT,
    ),
    distributions=st.none() | st.lists(DISTRIBUTIONS, max_size=5).map(tuple),
    endpoints=st.none()
    | st.lists(
        st.builds(
            Endpoint,
            purpose=st.sampled_from(["packages", "pytorch", "course", "proxy"]),
            url=TEXT,
            source=TEXT,
            ok=st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    processes=st.none() | st.lists(st.builds(Process, pid=st.integers(1, 9), name=TEXT), max_size=2).map(tuple),
    ports=st.none()
    | st.lists(st.builds(Port, number=st.integers(1, 9), purpose=TEXT, taken=st.booleans()), max_size=2).map(tuple),
    service=st.none() | st.builds(Service, url=TEXT, status=st.none() | st.integers(100, 599)),
)


@given(found=FACTS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_whatever_the_facts_are_every_check_says_something(found: Facts) -> None:
    findings = examine(found, CHECKS)
    assert [finding.id for finding in findings] == [check.id for check in CHECKS]
    assert [(finding.id, finding.detail) for finding in findings if finding.status == "error"] == []
    json.dumps(report.as_json(found, findings))
    report.as_markdown(found, findings, {})


def wrong(*steps: Step, status: Any = "fail") -> Finding:
    repair = Repair(steps=steps)
    return Finding(id="made.up", status=status, title="", fix=str(repair), repair=repair)


def test_repairs_are_those_of_what_is_wrong_each_once() -> None:
    one, two = Step(words=("true",)), Step(words=("false",))
    findings = [wrong(one), wrong(one), wrong(two, status="warn"), wrong(Step(words=("x",)), status="ok")]
    assert [str(repair) for repair in fix.repairs(findings)] == ["true", "false"]


def test_a_repair_stops_where_a_step_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "kept").touch()
    steps = (
        Step(remove=str(tmp_path / "folder")),
        Step(words=("no-such-program",)),
        Step(remove=str(tmp_path / "kept")),
    )
    assert fix.carry_out(Repair(steps=steps)) is False
    assert not (tmp_path / "folder").exists()
    assert (tmp_path / "kept").exists()
    assert capsys.readouterr().err == (
        f"$ rm -r {tmp_path}/folder\n$ no-such-program\n  failed: No such file or directory\n"
    )


def test_nothing_is_changed_without_being_asked(run: Run, env: Path) -> None:
    before = sorted(env.rglob("*"))
    packages = next(env.glob("lib/python*/site-packages"))
    (packages / "~orch").mkdir()
    only = ("--only", "packages.files", "--offline")
    assert run("doctor", "--env", env, *only).code == 0
    result = run("doctor", "--env", env, *only, "--fix")
    assert f"To be run: rm -r '{packages}/~orch'" in result.stderr
    assert "--yes carries them out" in result.stderr
    assert (packages / "~orch").exists()
    result = run("doctor", "--env", env, *only, "--fix", "--yes")
    assert f"$ rm -r '{packages}/~orch'" in result.stderr
    assert "ok\tpackages.files" in result.stdout
    assert sorted(env.rglob("*")) == before


def test_fix_asks_on_a_terminal(run: Run, env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    packages = next(env.glob("lib/python*/site-packages"))
    (packages / "~orch").mkdir()
    only = ("--only", "packages.files", "--offline")
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert "Run these commands?" in run("doctor", "--env", env, *only, "--fix").stderr
    assert (packages / "~orch").exists()
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    run("doctor", "--env", env, *only, "--fix")
    assert not (packages / "~orch").exists()


def test_a_system_python_is_never_changed() -> None:
    from dlenv.doctor import remedy

    target = Target(python=Path("/usr/bin/python3"))
    assert isinstance(remedy.install(Facts(target=target), "numpy<2"), str)
    assert isinstance(remedy.remove(Facts(target=target), "/usr/lib/python3/x"), str)
    inside = Facts(target=Target(python=Path("/env/bin/python"), env=Path("/env"), kind="venv"))
    assert isinstance(remedy.remove(inside, "/env/lib/x"), Repair)
    assert isinstance(remedy.remove(inside, "/environment/lib/x"), str)


def test_report_holds_no_secrets(run: Run, env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "zhangwei"
    home.mkdir(parents=True)
    (home / "torch.py").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "zhangwei")
    monkeypatch.setenv("HOSTNAME", "lab-pc-17")
    monkeypatch.setenv("HF_TOKEN", "hf_AbCdEfGhIjKlMnOpQrStUvWx")
    monkeypatch.setenv("HTTPS_PROXY", "http://zhangwei:pa55w0rd@proxy.lab-pc-17:3128")
    monkeypatch.setenv("PIP_INDEX_URL", "http://buyer:s3cr3t@127.0.0.1:9/simple")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(home / "cuda"))
    monkeypatch.chdir(home)
    file = tmp_path / "report.md"
    result = run(
        "doctor", "--env", env, "--report", file, "--only", "python", "--only", "network", "--only", "packages"
    )
    assert f"Wrote {file}" in result.stderr
    text = file.read_text()
    assert "| fail | python.shadowing | torch.py in ~:" in text
    for secret in ("zhangwei", "pa55w0rd", "s3cr3t", "hf_AbC", "lab-pc-17", str(home), socket.gethostname()):
        assert secret not in text, secret
    if getpass.getuser() != "root":
        assert getpass.getuser() not in text


@pytest.mark.skipif(sys.platform != "linux", reason="the name of the folder is not UTF-8")
def test_a_report_of_a_folder_whose_name_is_not_utf8(
    run: Run, env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "torch.py").touch()
    monkeypatch.chdir(folder)
    run("doctor", "--env", env, "--only", "python.shadowing", "--offline", "--report", folder / "report.md")
    assert sorted(os.listdir(folder)) == ["report.md", "torch.py"]  # noqa: PTH208
    assert "caf\\udce9" in (folder / "report.md").read_text()


@pytest.mark.parametrize("place", ["folder", "missing/report.md", "file/report.md", "x" * 300, "/dev/null"])
def test_a_report_that_can_not_be_written_is_misuse(
    run: Run, env: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("it was examined before")

    monkeypatch.setattr(gather, "gather", never)
    result = run("doctor", "--env", env, "--report", tmp_path / place)
    assert (result.code, result.stdout) == (2, "")
    assert "give another file by --report" in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_report_that_fails_leaves_nothing(
    run: Run, env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    replace = Path.replace

    def full(self: Path, target: Any) -> Path:
        if self.name.endswith("report.md.tmp"):
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    result = run("doctor", "--env", env, *QUICK, "--report", tmp_path / "folder" / "report.md")
    assert (result.code, list((tmp_path / "folder").iterdir())) == (2, [])
    assert "No space left on device" in result.stderr


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/home/zhangwei/.venv/bin/python", "~/.venv/bin/python"),
        ("/home/zhangweiling/x", "/home/<user>/x"),
        (r"C:\Users\Zhang Wei\x", r"C:\Users\<user>\x"),
        ("/Users/other/torch.py", "/Users/<user>/torch.py"),
        ("http://a:b%40c@proxy:3128/x", "http://<user>@proxy:3128/x"),
        ("token=abc123", "token=<secret>"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer <secret>"),
        ("--password hunter2 --host x", "--password <secret> --host x"),
        ("WANDB_API_KEY: 0123456789abcdef", "WANDB_API_KEY: <secret>"),
        ("ghp_0123456789abcdefghij0123", "<secret>"),
        ("AKIAIOSFODNN7EXAMPLE", "<secret>"),
        (f"asked with dlenv_{'0aZ_-' * 8}abc", "asked with <secret>"),
        ("the key is planted-in-a-variable!", "the key is <secret>!"),
        ("mail to zhang.wei@example.org", "mail to <address>"),
        ("GPU-8f3e1c2a-0b1d-4c5e-9f00-123456789abc", "GPU-<uuid>"),
        ("http://10.1.2.3:8080/simple", "http://<address>:8080/simple"),
        ("nvidia-cuda-cccl 13.3.5.0.6 and libcudnn 9.10.2.21", "nvidia-cuda-cccl 13.3.5.0.6 and libcudnn 9.10.2.21"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/"),
        ("zhangwei ran it on box7", "<user> ran it on <host>"),
        ("torch 2.15.0+cu132", "torch 2.15.0+cu132"),
        ("http://bob:pa/s5word@proxy:3128/", "http://<user>@proxy:3128/"),
        ("the proxy bob:s5word@proxy:3128", "the proxy <user>@proxy:3128"),
        (
            "Port could not be cast to integer value as 'Hunter2/x'",
            "Port could not be cast to integer value as '<secret>'",
        ),
        ("reached 10.1.2.3, refused", "reached <address>, refused"),
        ("peer=192.168.7.20:80", "peer=<address>:80"),
        ("http://[fd00::1]:80/ and fe80::1%eth0", "http://[<address>]:80/ and <address>"),
        ("std::vector in ::1, 12:34:56 and 0000:01:00.0", "std::vector in ::1, 12:34:56 and 0000:01:00.0"),
        ("nvidia-cudnn-cu12==9.10.2.21, opencv 4.10.0.84", "nvidia-cudnn-cu12==9.10.2.21, opencv 4.10.0.84"),
        ("00:1a:2b:3c:4d:5e", "<address>"),
        ("https://host/simple?key=AIabcd123 x", "https://host/simple?<secret> x"),
        ("https://host/?X-Amz-Signature=deadbeef", "https://host/?<secret>"),
        ("X-Amz-Signature=deadbeef01&sig=abc", "X-Amz-Signature=<secret>&sig=<secret>"),
        ("Cookie: session=abcd1234; x=1", "Cookie: <secret>"),
        ("/data/zhangwei_env, ZHANGWEI, Zhangwei", "/data/<user>_env, <user>, <user>"),
        ("/home/zhangwei_old/x", "/home/<user>/x"),
        ("/mnt/c/Users/Zhang Wei/venv", "/mnt/c/Users/<user>/venv"),
        ("box7.corp.example.com and BOX7", "<host> and <host>"),
        (r"\\server\share", r"\\<host>\share"),
        ("it is abcdef123456 or hunter2hunter2 in /work", "it is <secret> or <secret> in /work"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJabc", "ssh-ed25519 <secret>"),
    ],
)
def test_redaction(text: str, clean: str) -> None:
    environ = {
        "HOME": "/home/zhangwei",
        "USER": "zhangwei",
        "HOSTNAME": "box7",
        "MY_SECRET": "planted-in-a-variable",
        "TOKEN": "x",  # too short to be taken out wherever it stands
        "OPENAI_KEY": "abcdef123456",
        "MYSQL_PWD": "hunter2hunter2",
        "PWD": "/srv/",
        "HTTP_PROXY": "http://bob:Hunter2/x@proxy",
    }
    assert redact(text, environ, frozenset({"4.10.0.84"})) == clean


def test_the_list_in_the_documentation_is_complete() -> None:
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    listed = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert listed == [check.id for check in CHECKS]


def test_the_machine_is_quick(run: Run, env: Path, without_driver: None) -> None:
    """A second is promised for the machine's part without a GPU; as root or as user, on a quiet machine."""
    words = [word for group in ("driver", "gpu", "system") for word in ("--only", group)]
    best = min(_seconds([sys.executable, "-m", "dlenv", "doctor", "--env", str(env), *words]) for _ in range(3))
    assert best < 2, f"{best:.2f} s"


def _seconds(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, capture_output=True, check=False, env=dict(os.environ))
    return time.monotonic() - began


def test_unknown_names_raise() -> None:
    with pytest.raises(UsageError, match=r"no check 'x'"):
        select(["torch.build", "x"])
