"""What ``dlenv doctor --fix`` may run, where, and on what; and what it only tells."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dlenv import catalog
from dlenv.doctor import fix, remedy
from dlenv.doctor.examine import examine
from dlenv.doctor.facts import Facts, Target
from dlenv.doctor.model import Finding, Repair
from dlenv.doctor.registry import select
from dlenv.doctor.target import choose
from dlenv.environment.distributions import CondaPackage, Distribution
from dlenv.environment.record import Package, Record
from dlenv.machine import Gpu, Machine, Nvml
from dlenv.plan import Candidate, Course, Plan, Request, make
from dlenv.probe import Report, Stage

Run = Callable[..., Any]

RTX_4060 = Gpu(index=0, name="NVIDIA GeForce RTX 4060", compute_capability="8.9", memory_mib=8188)
GTX_1080 = Gpu(index=0, name="NVIDIA GeForce GTX 1080", compute_capability="6.1", memory_mib=8192)
MACHINE = Machine(
    os="linux",
    os_version="Debian GNU/Linux 12 (bookworm)",
    kernel="6.1.0",
    arch="x86_64",
    libc=("glibc", "2.36"),
    python="3.11.7",
    nvml=Nvml(status="ok"),
    driver="595.71.05",
    cuda_driver="13.2",
    gpus=(RTX_4060,),
)


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """An environment that holds nothing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    return tmp_path / "env"


def packages_of(env: Path) -> Path:
    return next(env.glob("lib/python*/site-packages"))


def install(env: Path, name: str, version: str, code: str = "") -> None:
    """Put a package there as an installer does."""
    note = packages_of(env) / f"{name}-{version}.dist-info"
    note.mkdir()
    (note / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (packages_of(env) / f"{name}.py").write_text(code)


def record(*packages: str, **request: Any) -> Record:
    torch = Candidate(torch="2.15.0", torchvision="0.29.2", build=request.get("build") or "cu132", index=None)
    return Record(
        dlenv="0.1.0",
        created="2026-11-21T12:00:00+00:00",
        request=Request(**({"course": None} | request)),
        machine=MACHINE,
        plan=Plan(manager="uv", python="3.11", torch=torch),
        torch=torch,
        packages=tuple(Package(name=name, version="1.0") for name in packages),
    )


def facts(env: Path = Path("/env"), kind: Any = "venv", **fields: Any) -> Facts:
    target = Target(python=env / "bin" / "python", env=env, kind=kind, root=fields.pop("root", False))
    return Facts(target=target, folder=Path("/srv"), **({"machine": MACHINE, "plan": planned(MACHINE)} | fields))


def planned(machine: Machine) -> Plan:
    return make(machine, Request(manager="uv", course=None), catalog.load())


def probed(torch: dict[str, Any] | str, **stages: Stage) -> Report:
    found = {
        "python": Stage(name="python", status="ok", facts={"version": "3.11.7"}),
        "torch": Stage(name="torch", status="failed", error=torch)
        if isinstance(torch, str)
        else Stage(name="torch", status="ok", facts=torch),
    } | stages
    return Report(python="/env/bin/python", level="facts", stages=tuple(found.values()))


def judged(check: str, given: Facts) -> Finding:
    (finding,) = examine(given, select([check]))
    return finding


def test_a_strangers_modules_do_not_run(env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(env, "ipykernel", "7.0", "import traitlets\n")
    install(env, "traitlets", "5.0")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "traitlets.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path / "work")
    assert fix.carry_out(Repair.of((str(env / "bin" / "python"), "-m", "ipykernel")))
    assert not (tmp_path / "run").exists()


def test_a_strangers_settings_are_not_obeyed(
    env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "pyproject.toml").write_text("[tool.uv]\nrequired-version = '==0.0.7'\n")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("UV_OFFLINE", "1")
    words = ("uv", "pip", "install", "--python", str(env / "bin" / "python"), "dlenv-has-no-such-package")
    assert fix.carry_out(Repair.of(words)) is False
    said = capfd.readouterr().err
    assert "failed: " in said
    assert "0.0.7" not in said


def test_a_folder_that_is_gone_keeps_nothing_from_being_mended(
    env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert fix.carry_out(Repair.of((str(env / "bin" / "python"), "-c", "")))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """What looks like conda's own installation."""
    for name in ("conda-meta", "condabin", "bin"):
        (tmp_path / "conda" / name).mkdir(parents=True)
    (tmp_path / "conda" / "bin" / "python").touch()
    return tmp_path / "conda"


def test_condas_own_installation_is_not_what_the_user_works_in(base: Path, env: Path, tmp_path: Path) -> None:
    active = {"CONDA_PREFIX": str(base), "CONDA_DEFAULT_ENV": "base"}
    (tmp_path / "work").mkdir()
    env.rename(tmp_path / "work" / ".venv")
    assert choose(None, None, active, tmp_path / "work").env == tmp_path / "work" / ".venv"
    # The environment that dlenv runs from, where it is one.
    own = choose(None, None, {}, tmp_path)
    assert choose(None, None, active, tmp_path).env == (own.env or base)
    # Another of conda's environments is active since the user said so.
    (base / "envs" / "work" / "conda-meta").mkdir(parents=True)
    named = {"CONDA_PREFIX": str(base / "envs" / "work"), "CONDA_DEFAULT_ENV": "work"}
    assert choose(None, None, named, tmp_path / "work").env == base / "envs" / "work"


def test_condas_own_installation_is_never_changed(base: Path) -> None:
    for target in (choose(base, None, {}, base), choose(None, base / "bin" / "python", {}, base)):
        assert (target.env, target.kind, target.root) == (base, "conda", True)
        given = Facts(target=target, folder=Path("/srv"), machine=MACHINE, plan=planned(MACHINE))
        assert remedy.install(given, "numpy<2") == "dlenv setup --env /srv/.venv"
        assert remedy.torch(given) == "dlenv setup --env /srv/.venv"
        assert isinstance(remedy.remove(given, str(base / "lib" / "x")), str)
        assert isinstance(remedy.run_python(given, "-m", "ipykernel"), str)
        absent = Report(python="", level="facts", stages=(Stage(name="torch", status="absent"),))
        finding = judged("torch.import", msgspec.structs.replace(given, report=absent))
        assert (finding.status, finding.repair) == ("fail", None)


def test_what_somebody_installed_later_is_no_reason_to_build_again(env: Path) -> None:
    given = facts(env, record=record("torch", "torchvision", "numpy"))
    repair = remedy.install(given, "networkx>=2.5")
    assert isinstance(repair, Repair)
    assert str(repair).endswith("networkx>=2.5'")
    assert "setup" not in str(repair)


def test_what_dlenv_installed_is_built_again_and_said_what_that_leaves_out(env: Path, run: Run) -> None:
    install(env, "numpy", "2.0")
    install(env, "mine", "3.1")
    built = record("numpy")
    built.write(env)
    for words in (("numpy<2",), ()):
        repair = remedy.install(facts(env, record=built), *words)
        assert isinstance(repair, Repair)
        assert f"-m dlenv setup --repair --env {env} --yes" in str(repair)
        assert repair.note == "the new environment is without what was installed into it later: mine==3.1"
    said = run("doctor", "--env", env, "--only", "packages.record", "--offline", "--fix").stderr
    assert "To be run: " in said
    assert "mine==3.1" in said
    assert "Nothing was done" in said


def test_building_again_is_done_instead_of_single_repairs(env: Path) -> None:
    given = facts(env, record=record("torch", "torchvision", "numpy"))
    plain, single = remedy.install(given, "numpy<2"), remedy.install(given, "networkx>=2.5")
    anew, removal = remedy.torch(given, replan=True), remedy.remove(given, str(packages_of(env) / "~orch"))
    given_by = [
        Finding(id=f"a.{number}", status="fail", title="", repair=repair)
        for number, repair in enumerate([single, removal, plain, anew])
        if isinstance(repair, Repair)
    ]
    assert len(given_by) == 4
    assert fix.repairs(given_by[:2]) == [single, removal]
    assert fix.repairs(given_by[:3]) == [plain]
    assert fix.repairs(given_by) == [anew]
    assert REPLANNED in str(anew)


def test_notebooks_stay_where_they_are_expected(env: Path) -> None:
    """Repairs run elsewhere, and by default the notebooks lie in the folder that setup is run in."""
    course = Course(edition="zh", package="d2l==0.17.6", notebooks="https://zh.d2l.ai/d2l-zh.zip")
    built = record("numpy", course="zh")
    built = msgspec.structs.replace(built, plan=msgspec.structs.replace(built.plan, course=course))
    assert "--notebooks /srv/d2l-zh" in str(remedy.install(facts(env, record=built)))
    built = msgspec.structs.replace(built, notebooks="/data/d2l-zh")
    assert "--notebooks" not in str(remedy.install(facts(env, record=built)))


CPU = {"version": "2.15.0+cpu", "cuda": None}
NEW = {"version": "2.15.0+cu132", "cuda": "13.2", "architectures": ["sm_75", "sm_80", "sm_86", "sm_90"]}
REPLANNED = "--build auto --torch auto --gpu auto"


@pytest.mark.parametrize(
    ("check", "torch", "machine", "status"),
    [
        ("torch.build", CPU, MACHINE, "ok"),
        ("torch.architectures", NEW, msgspec.structs.replace(MACHINE, gpus=(GTX_1080,)), "skip"),
        ("torch.driver", NEW, msgspec.structs.replace(MACHINE, driver="550.54.14"), "skip"),
    ],
)
def test_what_was_asked_for_is_no_fault(
    env: Path, check: str, torch: dict[str, Any], machine: Machine, status: str
) -> None:
    build = torch["version"].partition("+")[2]
    given = facts(env, machine=machine, report=probed(torch), record=record("torch", build=build))
    finding = judged(check, given)
    assert (finding.status, finding.fix) == (status, None)
    assert finding.detail.endswith(f"asked for by --build {build}")
    # Where nobody asked for it, or somebody put it there since, what was asked for does not count.
    for other in (record("torch"), record("torch", build="cu126")):
        found = judged(check, msgspec.structs.replace(given, record=other))
        assert found.status == "fail"
        assert found.repair is not None
        assert REPLANNED in str(found.repair)


def test_a_broken_torch_is_built_again_as_it_was_asked_for(env: Path) -> None:
    given = facts(env, report=probed("ImportError: file too short"), record=record("torch", build="cpu"))
    repair = judged("torch.import", given).repair
    assert "setup --repair" in str(repair)
    assert REPLANNED not in str(repair)


def test_asked_for_without_gpus_or_by_version(env: Path) -> None:
    given = facts(env, report=probed({"version": "2.15.0"}))
    for request, option in (({"gpus": ()}, "--gpu none"), ({"torch": "2.15.0"}, "--torch 2.15.0"), ({}, None)):
        assert remedy.asked(msgspec.structs.replace(given, record=record("torch", **request))) == option  # type: ignore[arg-type]


def package(name: str, version: str, installer: str | None = None, requires: tuple[str, ...] = ()) -> Distribution:
    metadata = f"/env/lib/{name}-{version}.dist-info"
    return Distribution(
        name=name, version=version, location="/env/lib", metadata=metadata, installer=installer, requires=requires
    )


def test_what_conda_manages_is_mended_by_conda() -> None:
    given = facts(
        kind="conda",
        report=probed("ImportError: undefined symbol: iJIT_NotifyEvent"),
        conda=(CondaPackage(name="pytorch", version="2.3.0"),),
        distributions=(package("torch", "2.3.0", "conda"), package("d2l", "0.17.6", "pip")),
    )
    finding = judged("torch.import", given)
    assert finding.repair is None
    assert finding.fix == "conda install --prefix /env --force-reinstall pytorch torchvision"
    assert remedy.install(given, "numpy<2") == "conda install --prefix /env 'numpy<2'"
    both = remedy.install(given, "scipy", "d2l==0.17.6", words=("--no-deps",))
    assert isinstance(both, str)
    assert both.startswith("conda install --prefix /env scipy && ")
    assert both.endswith("uv pip install --python /env/bin/python --no-deps d2l==0.17.6")
    # What dlenv built with conda's Python is dlenv's.
    assert isinstance(remedy.install(msgspec.structs.replace(given, record=record("numpy")), "numpy<2"), Repair)


def test_only_what_is_missing_is_installed() -> None:
    torch = package("torch", "2.6.0", requires=("networkx", "sympy==1.13.1"))
    given = facts(
        report=probed({"version": "2.6.0+cu124", "cuda": "12.4"}),
        distributions=(torch, package("sympy", "1.13.1"), package("torchvision", "0.21.0", requires=("torch==2.6.0",))),
    )
    finding = judged("packages.requirements", given)
    assert finding.status == "fail"
    assert str(finding.repair).endswith("pip install --python /env/bin/python networkx")


@pytest.mark.parametrize("check", ["packages.requirements", "torchvision.operators"])
def test_torchvision_follows_the_torch_that_runs(check: str) -> None:
    broken = Stage(name="torchvision", status="failed", error="RuntimeError: operator torchvision::nms does not exist")
    given = facts(
        report=probed({"version": "2.6.0+cu124", "cuda": "12.4"}, torchvision=broken),
        distributions=(package("torch", "2.6.0"), package("torchvision", "0.20.0", requires=("torch==2.5.0",))),
    )
    repair = str(judged(check, given).repair)
    assert repair.endswith("--reinstall-package=torchvision torchvision==0.21.0+cu124")
    assert "--index https://download.pytorch.org/whl/cu124" in repair
    # Of a torch that nobody knows, or that does not run, the pair is installed.
    for torch in ({"version": "9.9"}, "ImportError: x"):
        report = probed(torch, torchvision=broken)  # type: ignore[arg-type]
        assert "torch==2.15" in str(remedy.torchvision(msgspec.structs.replace(given, report=report)))
