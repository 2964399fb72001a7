"""What a plan says for itself, and what it holds beside torch."""

# ruff: noqa: E501 (one line a machine)

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from machines import machine, make, summary

from dlenv import catalog, plan
from dlenv.catalog.courses import Recipe, Stack
from dlenv.errors import SetupError, UsageError
from dlenv.machine.model import Gpu, Machine, Nvml

T4 = machine("linux", "580.95.05", "7.5")


def says(sentences: tuple[str, ...], pattern: str) -> bool:
    return any(re.search(pattern, sentence) for sentence in sentences)


@pytest.mark.parametrize(
    ("where", "wishes", "reason"),
    [
        (machine("linux", "550.54.14", "7.5"), {}, r"^Driver 580 or newer gives 2\.15\.0\+cu132; this is 550\.54\.14\.$"),
        (machine("linux", "440.33", "7.5"), {}, r"^Driver 580 or newer gives 2\.15\.0\+cu132"),
        (machine("linux", "440.33", "3.7"), {}, r"^Driver 450\.80\.02 or newer gives 2\.7\.1\+cu118"),
        (machine("linux", "535.54.03", "12.0"), {}, r"^Driver 580 or newer gives 2\.15\.0\+cu132"),
        (machine("linux", "550.54.14", "7.5"), {}, r"minor-version compatibility it runs every 12\.x build"),
        (machine("linux", "580.95.05", "6.1"), {}, r"^2\.14\.1 is the last torch with code for this machine's GPUs"),
        (machine("linux", "470.256.02", "3.5"), {}, r"No build of torch 1\.13\.0 or newer on linux-x86_64 has code"),
        (machine("linux", "580.95.05", "6.1"), {"torch": "2.15.0"}, r"last torch with code for .* is 2\.14\.1\+cu126"),
        (machine("windows", "551.61", "8.9"), {"strict_cuda": True}, r"Without --strict-cuda it would be 2\.14\.1\+cu126"),
        (machine("linux"), {}, "about 5 GB smaller"),
        (machine("linux"), {"manager": "conda"}, r"conda channel ends at 2\.5\.1"),
        (machine("linux 2.17"), {}, r"2\.15\.0\+cu132 needs glibc 2\.28 or newer, and this is 2\.17"),
        (machine("macos 13.6"), {}, r"2\.15\.0\+mps needs macOS 14\.0 or newer, and this is 13\.6"),
        (machine("macos 13.6"), {}, r"torch 2\.11\.0 can be installed here, but uses Apple's GPU from macOS 14\.0 on only"),
        (machine("macos 13.6"), {"torch": "2.11.0"}, r"2\.11\.0\+mps computes on the CPU: .* from macOS 14\.0 on only"),
        (machine("macos 11.7"), {"build": "mps"}, r"2\.11\.0\+mps computes on the CPU: .* and this is 11\.7"),
        (machine("macos 15.1"), {"gpus": ()}, r"^2\.15\.0\+mps computes on the CPU, although"),
        (machine("macos 15.1"), {"gpus": (), "build": "mps"}, r"^2\.15\.0\+mps computes on the CPU, although"),
        (machine("linux", amd_gpus=("gfx1100",), rocm_driver=True), {"gpus": (), "build": "rocm7.2"}, r"^2\.13\.0\+rocm7\.2 computes on the CPU"),
        (T4, {"python": "3.10"}, "2.15.0.cu132 has wheels for Python 3.11 to 3.15, not for 3.10"),
        (T4, {"gpus": ()}, "No GPU is to be used, as you asked"),
        (machine("windows", amd_gpus=("gfx1100",)), {}, "no build for AMD GPUs on Windows"),
        (machine("linux", intel_gpu=True), {}, "--build xpu"),
    ],
)  # fmt: skip
def test_reasons(where: Machine, wishes: dict[str, Any], reason: str) -> None:
    planned = make(where, **wishes)
    assert says(planned.reasons, reason), planned.reasons


@pytest.mark.parametrize(
    ("where", "wishes", "warning"),
    [
        (machine("linux", "580.95.05", "7.5 6.1"), {}, r"`--gpu 0` \(only Tesla T4 .*\) would give 2\.15\.0\+cu132"),
        (machine("linux", "580.95.05", "6.1 7.5 7.5"), {}, r"`--gpu 1 --gpu 2` \(only Tesla T4 .*\) would give 2\.15\.0"),
        (machine("linux", "580.95.05", "3.7 12.0"), {}, r"`--gpu 1` .* would give 2\.15\.0\+cu132"),
        (machine("linux", "440.33", "7.5"), {}, r"2\.15\.0\+cpu leaves Tesla T4 .* unused"),
        (machine("linux"), {"build": "cu126"}, "computes on the CPU until there is one"),
        (machine("linux", nvidia_pci=("0000:01:00.0",), nvml=Nvml(status="driver-not-loaded")), {}, "dlenv doctor"),
        (machine("linux", nvml=Nvml(status="mismatch")), {}, "can't be asked: mismatch.*dlenv doctor"),
        (machine("linux", "580.95.05", "? 7.5"), {}, r"^GPU 0 \(NVIDIA GPU\) is left out"),
        (machine("linux arm", jetson=True), {}, "NVIDIA publishes wheels for JetPack"),
        (machine("macos 14.5 intel"), {}, "built for numpy 1"),
        (machine("linux", amd_gpus=("gfx1036", "gfx1100"), rocm_driver=True), {}, "no code for gfx1036"),
        (machine("linux", amd_gpus=("gfx1100",)), {}, "chooses a ROCm build"),
        (machine("linux", "580.95.05", "7.5", cuda_visible_devices=""), {}, "hides every GPU"),
        (machine("linux", "580.95.05", "7.5", cuda_visible_devices="1"), {}, "hides the GPUs it does not name"),
        (machine("windows", "580.88", "6.1"), {}, r"if it is missing, 2\.14\.0\+cu126 is taken"),
        (machine("linux"), {}, r"^2\.15\.0\+cpu for linux-x86_64 was announced, and not seen .* 2\.14\.1\+cpu is taken\.$"),
        (machine("linux"), {"torch": "2.15.0"}, r"announced, and not seen .* missing, 2\.15\.0\+cu132 is taken"),
        (machine("windows", "591.44", "8.9"), {"torch": "2.15.0"}, r"announced, and not seen .* --torch 2\.14\.1 gives 2\.14\.1\+cu132"),
        (machine("linux", None, "7.5"), {"strict_cuda": True}, "--strict-cuda found no CUDA build: no driver is known"),
        (machine("linux", "440.33", "7.5"), {"strict_cuda": True}, "--strict-cuda found no CUDA build"),
    ],
)  # fmt: skip
def test_warnings(where: Machine, wishes: dict[str, Any], warning: str) -> None:
    planned = make(where, **wishes)
    assert says(planned.warnings, warning), planned.warnings


def gpu(**facts: Any) -> Machine:
    return machine("linux", "580.95.05", gpus=(Gpu(index=0, name="A100", compute_capability="8.0", **facts),))


@pytest.mark.parametrize(
    ("facts", "used", "warning"),
    [
        ({"mig": True, "mig_instances": 2}, True, "in MIG mode: a program sees one of its instances"),
        ({"mig": True}, False, "MIG mode is on and there is no instance"),
        ({"compute_mode": "prohibited"}, False, "its compute mode is prohibited"),
        ({"compute_mode": "exclusive-process"}, True, None),
        ({"problem": "Not Supported"}, True, "did not answer everything: Not Supported"),
    ],
)
def test_gpus_that_can_be_used_only_in_part(facts: dict[str, Any], used: bool, warning: str | None) -> None:
    planned = make(gpu(**facts))
    assert summary(planned) == ("2.15.0+cu132 pypi" if used else "2.15.0+cpu")
    assert says(planned.warnings, warning) if warning else not planned.warnings
    if not used:
        with pytest.raises(SetupError, match="choose another by --gpu"):
            make(gpu(**facts), gpus=(0,))


@pytest.mark.parametrize(
    ("where", "wishes", "fallbacks"),
    [
        # 2.15.0+cpu was only announced; CUDA wheels run without a GPU
        (machine("linux"), {}, ["2.14.1+cpu", "2.15.0+cu132 pypi"]),
        (machine("linux arm"), {}, ["2.14.1+cpu", "2.15.0+cu132 pypi"]),
        # the driver is too old to be tried
        (machine("linux", "440.33", "7.5"), {}, ["2.14.1+cpu", "2.15.0+cu132 pypi"]),
        # 2.15.0+cu132 would try the GPU, and fail
        (machine("linux", "580.95.05", "6.1"), {"gpus": ()}, ["2.14.1+cpu", "2.7.1+cu126 pypi"]),
        (machine("linux", "550.54.14", "7.5"), {}, ["2.14.0+cu126", "2.10.0+cu128 pypi"]),
        (machine("linux", "580.95.05", "6.1"), {}, ["2.14.0+cu126", "2.7.1+cu126 pypi"]),
        (machine("linux", "470.256.02", "3.7"), {"course": "zh"}, ["2.0.1+cu117 pypi"]),
        (machine("linux", "470.256.02", "3.7"), {"python": "3.11"}, []),  # 2.0.1 fails beside numpy 2
        (machine("linux", "470.256.02", "3.7"), {"extras": ("serve",)}, []),  # the extras need torch 2.6
        (machine("linux", "570.86.10", "12.0"), {}, ["2.10.0+cu128 pypi"]),
        (machine("linux", "550.54.14", "7.5"), {"torch": "2.14.1"}, []),
        (machine("linux"), {"build": "cpu"}, ["2.14.1+cpu"]),
        (machine("linux"), {"build": "cpu", "torch": "2.14.1"}, []),
        (machine("linux"), {"torch": "2.15.0"}, ["2.15.0+cu132 pypi"]),
        (machine("linux"), {"python": "3.9"}, ["2.8.0+cu128 pypi"]),
        (machine("windows", "551.61", "8.9"), {}, ["2.14.0+cu126"]),  # the package index has nothing for GPUs there
        (machine("linux", amd_gpus=("gfx1100",), rocm_driver=True), {}, []),
        (T4, {}, []),  # comes from the package index anyway
        # the strict rule is for them, too: this driver is for 12.2, the next one for 12.8, the last for 13.0
        (machine("linux", "535.183.01", "9.0"), {"strict_cuda": True}, ["2.4.1+cu121 pypi"]),
        (machine("linux", "570.124.06", "9.0"), {"strict_cuda": True}, ["2.10.0+cu128 pypi"]),
        (machine("linux", "580.95.05", "9.0"), {"strict_cuda": True}, ["2.14.1+cu130 pypi"]),
        (machine("linux", "535.183.01", "9.0"), {"strict_cuda": True, "torch": "2.5.1"}, []),
        # no CUDA build by the strict rule, though 2.10.0+cu128 would run: nor afterwards
        (machine("linux", "570.86.10", "12.0", cuda_driver="12.7"), {"strict_cuda": True, "torch": "2.10.0"}, []),
        # nothing uses this GPU, so the rule forbids nothing
        (machine("linux", "440.33", "7.5"), {"strict_cuda": True}, ["2.14.1+cpu", "2.15.0+cu132 pypi"]),
    ],
)  # fmt: skip
def test_what_is_taken_when_the_first_choice_can_not_be_had(
    where: Machine, wishes: dict[str, Any], fallbacks: list[str]
) -> None:
    planned = make(where, **wishes)
    own = [found for found in planned.fallbacks if found.index is None]
    assert [summary(msgspec.structs.replace(planned, torch=found)) for found in planned.fallbacks] == fallbacks
    if planned.torch.index:
        assert says(planned.reasons, "taken, which runs here" if own else "no replacement")


@pytest.mark.parametrize(
    ("running", "wishes", "python"),
    [
        ("3.12.1", {}, "3.12"),  # the one that runs dlenv, which needs no download
        ("3.10.13", {}, "3.13"),  # the newest torch has no 3.10
        ("3.14.0", {}, "3.13"),  # dlenv itself does not support 3.14
        ("3.12.1", {"torch": "2.1.2"}, "3.11"),
        ("3.12.1", {"torch": "1.13.1"}, "3.10"),
        ("3.12.1", {"course": "zh"}, "3.11"),
        ("3.12.1", {"course": "en"}, "3.11"),
        ("3.12.1", {"course": "zh", "python": "3.12"}, "3.12"),
        ("3.12.1", {"course": "zh", "torch": "1.13.1"}, "3.10"),
        ("3.12.1", {"course": "zh", "extras": ("serve",)}, "3.11"),
    ],
)
def test_which_python(running: str, wishes: dict[str, Any], python: str) -> None:
    assert make(machine("linux", python=running), **wishes).python == python


def stack(**facts: Any) -> Stack:
    usual = {"packages": ("numpy==1.26.4",), "overrides": ("numpy==1.26.4",), "source": "test", "date": "2026-11-21"}
    return Stack(**{**usual, **facts})


RECIPE = Recipe(
    title="A course",
    package="d2l==0.17.6",
    python="3.11",
    notebooks=("https://example.org/a.zip", "https://example.org/b.zip"),
    repository="https://example.org/r.zip",
    count=2,
    needs_gpu=("chapter/two",),
    stacks=(stack(python=("3.11",)), stack(python=("3.12",), cannot_run={"chapter/one": "pandas is too new"})),
    source="test",
    date="2026-11-21",
)
SMALL = msgspec.structs.replace(catalog.load(), courses={"zh": RECIPE})


def test_the_course() -> None:
    planned = plan.make(T4, plan.Request(), SMALL)
    assert planned.packages == ("d2l==0.17.6", "numpy==1.26.4")
    assert planned.overrides == ("numpy==1.26.4",)
    assert planned.course == plan.Course(edition="zh", package="d2l==0.17.6", notebooks="https://example.org/a.zip")
    assert not says(planned.warnings, "chapter")


def test_notebooks_that_can_not_run_are_announced() -> None:
    planned = plan.make(machine("linux"), plan.Request(python="3.12"), SMALL)
    assert "The notebook chapter/one can't run on Python 3.12: pandas is too new." in planned.warnings
    assert "Without a GPU these notebooks can't run: chapter/two." in planned.warnings


def test_a_course_and_a_python_that_do_not_go_together() -> None:
    with pytest.raises(UsageError, match=r"course zh are not known to work on Python 3\.13; they do on 3\.11, 3\.12"):
        plan.make(T4, plan.Request(python="3.13"), SMALL)
    with pytest.raises(UsageError, match="no course 'en'; there are zh"):
        plan.make(T4, plan.Request(course="en"), SMALL)


def test_without_a_course_there_are_no_packages() -> None:
    planned = make(T4)
    assert (planned.packages, planned.overrides, planned.course) == ((), (), None)
    assert make(machine("macos 14.5 intel")).packages == ("numpy<2",)
    assert make(T4, torch="2.3.0").packages == ()
    assert make(machine("windows"), torch="2.4.0").packages == ("numpy<2",)


def test_an_old_torch_beside_a_course_that_pins_numpy() -> None:
    assert make(machine("macos 14.5 intel"), course="zh").packages.count("numpy<2") == 0


HOSTED = machine("linux", "580.95.05", "7.5", colab=True, python="3.13.15")


def test_in_place() -> None:
    planned = make(HOSTED, course="zh", installed_torch="2.11.0+cu128", installed_torchvision="0.26.0+cu128")
    assert planned.manager == "colab"
    assert planned.torch == plan.Candidate(torch="2.11.0", torchvision="0.26.0", build="cu128", index=None)
    assert (planned.packages, planned.overrides, planned.fallbacks) == (("d2l==0.17.6",), (), ())
    assert (planned.python, planned.gpus) == ("3.13", (0,))
    assert make(HOSTED, installed_torch="2.11.0").torch.build == "cu130"


def test_in_place_on_a_runtime_without_a_gpu() -> None:
    planned = make(machine("linux", kaggle=True), installed_torch="2.11.0+cpu")
    assert planned.gpus == ()
    assert says(planned.warnings, "has no GPU")


@pytest.mark.parametrize(
    ("wishes", "error", "text"),
    [
        ({}, SetupError, "torch is not installed here"),
        ({"python": "3.11"}, UsageError, r"Colab has Python 3\.13, and dlenv can't change it to 3\.11"),
        ({"torch": "2.15.0"}, UsageError, r"does not change it to 2\.15\.0"),
        ({"build": "cu126"}, UsageError, r"does not change it to 2\.11\.0\+cu126"),
    ],
)
def test_in_place_nothing_is_changed(wishes: dict[str, Any], error: type[Exception], text: str) -> None:
    installed = {"installed_torch": "2.11.0+cu128"} if wishes else {}
    with pytest.raises(error, match=text):
        make(HOSTED, **installed, **wishes)


def test_an_environment_of_its_own_on_colab() -> None:
    assert summary(make(HOSTED, manager="uv")) == "2.15.0+cu132 pypi"
