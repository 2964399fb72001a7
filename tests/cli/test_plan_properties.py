"""Whatever the machine and the request: a plan names nothing that the catalog's own rows say can't run there."""

# ruff: noqa: E501

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlenv import catalog, plan
from dlenv.catalog import tomllib
from dlenv.errors import DlenvError
from dlenv.machine.model import Gpu, Machine, Nvml

TORCH, CUDA = (
    tomllib.loads(resources.files(catalog).joinpath(f"{name}.toml").read_text()) for name in ("torch", "cuda")
)
SYSTEM = {
    ("linux", "x86_64"): "linux-x86_64",
    ("linux", "aarch64"): "linux-aarch64",
    ("windows", "x86_64"): "windows-x86_64",
    ("macos", "arm64"): "macos-arm64",
    ("macos", "x86_64"): "macos-x86_64",
}
CAPABILITIES = ["3.5", "3.7", "5.0", "5.2", "6.0", "6.1", "7.0", "7.2", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0"]
CAPABILITIES += ["10.0", "10.3", "11.0", "12.0", "12.1", "13.0", "99.9"]
TORCHES = [version for row in TORCH["release"] for version in row["versions"]]
BUILDS = sorted({build for row in TORCH["release"] for build in row["builds"]} | {"mps"})


def numbers(version: str) -> tuple[int, ...]:
    found = [int(part) for part in re.findall(r"[0-9]+", version)]
    return tuple(found + [0] * (4 - len(found)))


def check(where: Machine, request: plan.Request, python: str, candidate: plan.Candidate, gpus: tuple[int, ...]) -> None:
    """The rules again, from the rows of the files."""
    system = SYSTEM[where.os, where.arch]
    (row,) = [row for row in TORCH["release"] if candidate.torch in row["versions"]]
    build = candidate.build
    assert candidate.torchvision == row["versions"][candidate.torch]
    assert python in row["python"]
    if candidate.index is None:
        assert row["package_index"][system] == build
    else:
        assert system in row["builds"][build]
        assert candidate.index == f"https://download.pytorch.org/whl/{build}"
    if where.os == "linux" and where.libc:
        assert where.libc[0] == "glibc"
        newer = row.get("newer_glibc", {})
        for floor in (row["glibc"], newer.get(build, "0"), newer.get(system, "0")):
            assert numbers(where.libc[1]) >= numbers(floor)
    if where.os == "macos" and re.match("[0-9]", where.os_version):
        intel = TORCH["intel_mac"]["macos"]
        floor = intel if system == "macos-x86_64" else row.get("macos_python", {}).get(python, row["macos"])
        assert numbers(where.os_version) >= numbers(floor)
    if request.extras:
        assert numbers(candidate.torch) >= numbers("2.6")
        assert numbers("3.10") <= numbers(python) < numbers("3.14")
    if build.startswith("rocm") and request.build is None:
        (gfx,) = [row["gfx"] for row in TORCH["rocm"] if build in row["builds"]]
        assert set(where.amd_gpus) & set(gfx)
        assert where.rocm_driver
        assert request.gpus is None
    if build.startswith("cu"):
        check_cuda(where, candidate, system, gpus)


def check_cuda(where: Machine, candidate: plan.Candidate, system: str, gpus: tuple[int, ...]) -> None:
    whose = "windows" if where.os == "windows" or where.wsl else "linux"
    cuda = (int(candidate.build[2:-1]), int(candidate.build[-1]))
    for index in gpus:
        (gpu,) = [gpu for gpu in where.gpus if gpu.index == index]
        major, minor = map(int, (gpu.compute_capability or "").split("."))
        if where.driver and where.driver != "unknown":
            (floor,) = [row[whose] for row in CUDA["driver"] if row["cuda"] == cuda[0]]
            assert numbers(where.driver) >= numbers(floor)
            for generation in CUDA["generation"]:
                if major in generation["compute_capability"]:
                    assert numbers(where.driver) >= numbers(generation[whose])
        else:
            assert numbers(where.cuda_driver or "0")[0] >= cuda[0]
        (code,) = [
            row
            for row in TORCH["code"]
            if candidate.build in row["builds"]
            and system in row["systems"]
            and numbers(row["since"]) <= numbers(candidate.torch) <= numbers(row["until"])
        ]
        machine_code = [tuple(map(int, sm.split("."))) for sm in code["sm"]]
        ptx = [tuple(map(int, sm.split("."))) for sm in code.get("ptx", ())]
        runs = any(have[0] == major and have[1] <= minor for have in machine_code)
        assert runs or any(have <= (major, minor) for have in ptx)
        if not runs and where.cuda_driver:
            assert numbers(where.cuda_driver)[:2] >= cuda


versions = st.from_regex(r"[1-9][0-9]{0,3}(\.[0-9]{1,3}){0,3}", fullmatch=True)
DRIVERS = ["440.33", "450.80.02", "470.256.02", "525.60.13", "527.41", "550.54.14", "572.16", "580.65.06", "595.45.04"]
drivers = st.sampled_from([*DRIVERS, *DRIVERS, None, "unknown"]) | versions
gpus = st.builds(
    Gpu,
    index=st.just(0),
    name=st.text(max_size=5),
    compute_capability=st.none() | st.sampled_from(CAPABILITIES) | st.text(max_size=4),
    mig=st.booleans(),
    mig_instances=st.integers(0, 2),
    compute_mode=st.sampled_from([None, "default", "prohibited"]),
    problem=st.none() | st.just("GPU is lost"),
)
usual = st.sampled_from(CAPABILITIES).map(lambda cc: Gpu(index=0, name="G", compute_capability=cc))


def numbered(found: list[Gpu]) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(**{name: getattr(gpu, name) for name in gpu.__struct_fields__} | {"index": i})
        for i, gpu in enumerate(found)
    )


often_not = st.sampled_from([False] * 8 + [True])
places = st.sampled_from(
    [*SYSTEM, *SYSTEM, ("linux", "x86_64"), ("linux", "x86_64"), ("windows", "arm64"), ("other", "sparc")]
)
machines = places.flatmap(
    lambda place: st.builds(
        Machine,
        os=st.just(place[0]),
        arch=st.just(place[1]),
        os_version=st.sampled_from(["10.15", "11.0", "12.6", "13.6", "14.5", "15.1", "", "?"]),
        kernel=st.just("6"),
        libc=st.none()
        | st.tuples(st.just("glibc"), st.sampled_from(["2.5", "2.17", "2.28", "2.36"]))
        | st.just(("glibc", "2.36"))
        | st.just(("glibc", "2.39"))
        | st.just(("musl", "1.2.5")),
        python=st.sampled_from(["3.10.1", "3.11.7", "3.12.1", "3.13.0", "3.14.0", "2"]),
        python_bits=st.sampled_from([64] * 8 + [32]),
        driver=drivers,
        cuda_driver=st.none() | st.sampled_from(["11.4", "12.4", "13.0", "13.2", "x"]),
        nvml=st.builds(Nvml, status=st.sampled_from(["ok", "no-gpu", "library-missing", "mismatch", "timeout"])),
        gpus=st.lists(usual | usual | usual | gpus, max_size=3).map(numbered),
        nvidia_pci=st.sampled_from([(), ("0000:01:00.0",)]),
        amd_gpus=st.lists(st.sampled_from(["gfx1100", "gfx1036", "gfx90a", "Radeon"]), max_size=2).map(tuple),
        rocm_driver=st.booleans(),
        intel_gpu=st.booleans(),
        wsl=st.sampled_from([0, 0, 0, 2]),
        jetson=often_not,
        colab=often_not,
        kaggle=often_not,
        cuda_visible_devices=st.none() | st.text(max_size=3),
    )
)  # fmt: skip


def rarely(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from(range(8)).flatmap(lambda number: values if number == 7 else st.none())


requests = st.builds(
    plan.Request,
    manager=st.sampled_from([None, None, None, "uv", "conda", "colab"]),
    python=rarely(st.sampled_from([f"3.{minor}" for minor in range(7, 17)]) | st.text(max_size=4)),
    torch=rarely(st.sampled_from(TORCHES) | st.text(max_size=4)),
    build=rarely(st.sampled_from(BUILDS) | st.text(max_size=4)),
    gpus=rarely(st.lists(st.integers(0, 3), max_size=2).map(tuple)),
    strict_cuda=st.booleans(),
    course=st.sampled_from([None, "zh", "en"]),
    extras=st.sampled_from([(), (), ("serve",)]),
    installed_torch=rarely(st.sampled_from(["2.11.0+cu128", "2.11.0", "9.9"])),
)


gpu_machines = st.sampled_from(["linux-x86_64", "linux-x86_64", "windows-x86_64", "linux-aarch64", "wsl"]).flatmap(
    lambda place: st.builds(
        Machine,
        os=st.just("windows" if place.startswith("windows") else "linux"),
        arch=st.just("aarch64" if place.endswith("aarch64") else "x86_64"),
        os_version=st.just(""),
        kernel=st.just("6"),
        libc=st.sampled_from([("glibc", "2.17"), ("glibc", "2.36"), ("glibc", "2.36")]) if "win" not in place else st.none(),
        python=st.sampled_from(["3.10.1", "3.11.7", "3.13.0"]),
        driver=st.sampled_from(DRIVERS),
        cuda_driver=st.sampled_from([None, None, "11.4", "12.4", "12.8", "13.0", "14.0"]),
        nvml=st.just(Nvml(status="ok")),
        gpus=st.lists(usual, min_size=1, max_size=2).map(numbered),
        wsl=st.just(2 if place == "wsl" else 0),
    )
)  # fmt: skip
gpu_requests = st.builds(
    plan.Request,
    python=rarely(st.sampled_from([f"3.{minor}" for minor in range(8, 15)])),
    torch=rarely(st.sampled_from(TORCHES)),
    build=rarely(st.sampled_from(BUILDS)),
    gpus=rarely(st.just((0,))),
    strict_cuda=st.booleans(),
    course=st.sampled_from([None, "zh"]),
    extras=st.sampled_from([(), ("serve",)]),
)


@settings(max_examples=120, deadline=None)
@given(machines, requests)
@example(
    Machine(os="linux", os_version="", kernel="", arch="x86_64", python="3.11.7", nvml=Nvml(status="ok")),
    plan.Request(),
)
def test_a_plan_for_any_machine_names_nothing_that_can_not_run(where: Machine, request: plan.Request) -> None:
    verify(where, request)


@settings(max_examples=120, deadline=None)
@given(gpu_machines, gpu_requests)
def test_a_plan_for_gpus_names_nothing_that_can_not_run(where: Machine, request: plan.Request) -> None:
    verify(where, request)


def verify(where: Machine, request: plan.Request) -> None:
    """Either an error of dlenv's, or a plan that holds."""
    facts = catalog.load()
    try:
        planned = plan.make(where, request, facts)
    except DlenvError:
        return
    assert planned == plan.make(where, request, facts)
    assert planned.reasons
    for sentence in (*planned.reasons, *planned.warnings):
        assert sentence.endswith((".", ". ")), sentence
    if planned.manager == "colab":
        assert planned.torch.torch == (request.installed_torch or "").partition("+")[0]
        assert not planned.fallbacks
        return
    assert planned.torch.build == request.build or request.build is None
    assert planned.torch.build != "xpu" or request.build == "xpu"
    assert planned.torch.torch == request.torch or request.torch is None
    assert planned.python == request.python or request.python is None
    if request.gpus is not None:
        assert set(planned.gpus) <= set(request.gpus)
    if request.gpus == ():
        assert planned.devices == ()
    if planned.gpus:
        assert planned.devices == tuple(f"cuda:{position}" for position in range(len(planned.gpus)))
        if request.strict_cuda and request.build is None and re.fullmatch(r"[0-9.]+", where.cuda_driver or ""):
            assert where.cuda_driver is not None
            for candidate in (planned.torch, *planned.fallbacks):
                cuda = (int(candidate.build[2:-1]), int(candidate.build[-1]))
                assert cuda <= numbers(where.cuda_driver)[:2]
    for candidate in planned.fallbacks:
        (row,) = [row for row in TORCH["release"] if candidate.torch in row["versions"]]
        assert candidate.index is None or candidate.build not in row.get("unconfirmed", ())
    for candidate in (planned.torch, *planned.fallbacks):
        check(where, request, planned.python, candidate, planned.gpus)
    if planned.course:
        (stack,) = [s for s in facts.courses[planned.course.edition].stacks if planned.python in s.python]
        assert planned.packages == (planned.course.package, *stack.packages)
        assert planned.overrides == stack.overrides


def outcome(**wishes: Any) -> plan.Plan:
    where = Machine(
        os="linux", os_version="12", kernel="6", arch="x86_64", libc=("glibc", "2.36"), python="3.12.1",
        nvml=Nvml(status="no-gpu"),
    )  # fmt: skip
    return plan.make(where, plan.Request(**wishes), catalog.load())


def test_machines_survive_json() -> None:
    data = outcome(course="zh").to_json()
    assert data["python"] == "3.11"
    assert data["torch"] == {"version": "2.15.0", "build": "cpu", "index": "https://download.pytorch.org/whl/cpu"}
    assert data["torchvision"] == {"version": "0.29.2"}
