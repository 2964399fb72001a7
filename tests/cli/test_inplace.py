"""Colab and Kaggle, played by a virtual environment that holds small packages of the names that those have.

The packages come from an index on a local server. Where the proof has to succeed, PyTorch, NumPy, pandas and Matplotlib
are those that run these tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import msgspec
import pytest
from http_server import Page, Server

from dlenv.environment.record import Record
from dlenv.errors import ProofFailed, SetupError, UsageError
from dlenv.machine import Machine, Nvml
from dlenv.managers import inplace, uv
from dlenv.managers.source import Source
from dlenv.plan import Candidate, Plan, Request
from dlenv.plan.model import Course
from dlenv.setup.model import Options

VERSION = "{}.{}".format(*sys.version_info)
# What the site comes with; of the course's packages, those that are left out here are missing.
SITE = {
    "numpy": "2.1.3",
    "pandas": "2.2.3",
    "torch": "2.11.0+cu128",
    "torchvision": "0.26.0+cu128",
    "matplotlib": "3.10.0",
    "scipy": "1.16.3",
    "pillow": "11.3.0",
    "requests": "2.32.4",
    "ipykernel": "6.17.1",
    "ipywidgets": "7.7.1",
    "nbclient": "0.10.2",
    "nbformat": "5.10.4",
    "traitlets": "5.7.1",
}
D2L_ASKS = ["numpy==1.21.5", "pandas==1.2.4", "matplotlib==3.5.1", "jupyter==1.0.0"]

Files = dict[str, str]


def wheel(folder: Path, name: str, version: str, requires: list[str] | None = None, files: Files | None = None) -> Path:
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    contents = {
        **({f"{module}/__init__.py": f"__version__ = {version!r}\n"} if files is None else files),
        f"{info}/METADATA": "\n".join(metadata + [f"Requires-Dist: {line}" for line in requires or []]) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}\n")
    contents[f"{info}/RECORD"] = "".join(rows) + f"{info}/RECORD,,\n"
    path = folder / f"{module}-{version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in contents.items():
            archive.writestr(member, text)
    return path


class Index:
    """A package index on a local server."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self._folder = server, folder

    def add(self, name: str, version: str, requires: list[str] | None = None, files: Files | None = None) -> None:
        path = wheel(self._folder, name, version, requires, files)
        self._server.pages[f"/files/{path.name}"] = Page(path.read_bytes())
        page = self._server.pages.setdefault(f"/simple/{name}/", Page(headers={"Content-Type": "text/html"}))
        page.content += f'<a href="/files/{path.name}">{path.name}</a>\n'.encode()

    @property
    def downloaded(self) -> list[str]:
        return [path.removeprefix("/files/").split("-")[0] for path in self._server.paths if path.endswith(".whl")]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    with Server() as server:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{server.url}/simple")
        for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CONFIG_FILE"):
            monkeypatch.delenv(name, raising=False)
        # Colab's own variables.
        monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab-external_20261120")
        monkeypatch.setenv("UV_SYSTEM_PYTHON", "true")
        monkeypatch.setenv("PATH", f"{Path(sys.base_prefix, 'bin')}:/usr/bin:/bin")
        index = Index(server, tmp_path / "wheels")
        index.add("d2l", "0.17.6", D2L_ASKS)
        index.add("matplotlib-inline", "0.1.7", ["traitlets"])
        index.add("matplotlib-inline", "0.2.2", ["traitlets>=5.9"])  # would change what is installed
        for name in ("traitlets", "numpy", "pandas", "torch"):
            index.add(name, "99.0")
        yield index


def venv(path: Path, site: dict[str, str]) -> Path:
    """The site's Python, with these packages and pip."""
    uv.run(["venv", "--quiet", "--no-project", "--python", sys.executable, path])
    python = path / "bin" / "python"
    bundled = next(Path(sysconfig.get_path("stdlib"), "ensurepip/_bundled").glob("pip-*.whl"))
    wheels = [wheel(path.parent / "site", name, version) for name, version in site.items()]
    uv.run(["pip", "install", "--quiet", "--python", python, "--no-deps", "--no-index", bundled, *wheels])
    return python


def versions(python: Path) -> dict[str, str]:
    listed = json.loads(uv.run(["pip", "list", "--python", python, "--format", "json"]))
    return {package["name"]: package["version"] for package in listed if package["name"] != "pip"}


def machine(*, colab: bool = True) -> Machine:
    return Machine(
        os="linux",
        os_version="Ubuntu 22.04.5 LTS",
        kernel="6",
        arch="x86_64",
        python=sys.version.split()[0],
        nvml=Nvml(status="library-missing"),
        colab=colab,
    )


def plan(torch: str = "2.11.0", build: str = "cu128", package: str = "d2l==0.17.6") -> Plan:
    return Plan(
        manager="colab",
        python=VERSION,
        torch=Candidate(torch=torch, torchvision="0.26.0", build=build, index=None),
        packages=(package,),
        course=Course(edition="zh", package=package, notebooks="https://example.org/notebooks.zip"),
    )


OPTIONS = Options(env=Path(".venv"), request=Request())


def test_what_is_there_stays(index: Index, tmp_path: Path) -> None:
    """The packages here are empty, so the proof fails, truly; what was done then stays until it is undone."""
    python = venv(tmp_path / "colab", SITE)
    with pytest.raises(ProofFailed, match=r"the course does not work here \(.*torch: AttributeError") as caught:
        inplace.apply(OPTIONS, machine(), plan(), python)
    # Not the newest matplotlib-inline, which needs another traitlets; and nothing of what d2l asks for.
    assert versions(python) == {**SITE, "d2l": "0.17.6", "matplotlib-inline": "0.1.7"}
    assert sorted(set(index.downloaded)) == ["d2l", "matplotlib_inline"]
    assert Record.read(tmp_path / "colab") is None

    undo = str(caught.value).partition("taken away by: ")[2]
    assert undo == f"{python} -m pip uninstall --yes d2l matplotlib-inline"
    subprocess.run(undo, shell=True, check=True, capture_output=True)
    assert versions(python) == SITE


def test_a_package_that_can_not_be_added(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The course goes without what would need another numpy, says so, and tries again the next time."""
    site = {name: version for name, version in SITE.items() if name != "nbclient"}
    index.add("nbclient", "0.10.2", ["numpy>=99"])
    monkeypatch.setattr(inplace, "_prove", lambda *_: inplace.Report(python="", level="proof"))
    python = venv(tmp_path / "colab", site)
    outcome = inplace.apply(OPTIONS, machine(), plan(), python)
    assert versions(python) == {**site, "d2l": "0.17.6", "matplotlib-inline": "0.1.7"}
    (problem,) = outcome.problems
    assert problem.startswith("nbclient can't be added without changing what is installed (")
    assert "numpy" in problem
    assert problem.endswith(f"at your own risk: {python} -m pip install 'nbclient>=0.10,<1'")
    assert not outcome.to_json()["ok"]

    index.add("nbclient", "0.10.1")
    again = inplace.apply(OPTIONS, machine(), plan(), python)
    assert again.problems == ()
    assert versions(python)["nbclient"] == "0.10.1"


def test_what_no_other_source_betters_is_not_tried_there(tmp_path: Path) -> None:
    def installed(*words: str) -> tuple[str | None, bool]:
        """What came of it, and whether the second index was asked."""
        with Server() as first, Server() as second:
            for server in (first, second):
                index = Index(server, tmp_path / "wheels")
                index.add("alpha", "1.0", ["beta>=2"])
                for version in ("1.0", "2.0"):
                    index.add("beta", version)
            candidate = Candidate(torch="2.11.0", torchvision="0.26.0", build="cu128", index=None)
            attempts = [
                Source(candidate=candidate, environment={"UV_DEFAULT_INDEX": f"{server.url}/simple"}, label=label)
                for server, label in ((first, "the first"), (second, "the second"))
            ]
            return inplace._install(Path(sys.executable), ["--target", str(tmp_path / "to"), *words], attempts), bool(
                second.paths
            )

    failures, asked = installed("alpha==1.0", "beta==1.0")  # they exclude each other
    assert failures is not None
    assert failures.startswith("the first: ")
    assert "the second" not in failures
    assert not asked
    failures, asked = installed("gamma")
    assert failures is not None
    assert "; the second: " in failures
    assert asked


def test_an_installed_package_is_no_longer_as_it_was(index: Index, tmp_path: Path) -> None:
    """What a wheel says about its name is not all that it may hold: this one lays another numpy over the installed."""
    evil = {
        "d2l/__init__.py": "",
        "numpy-1.21.5.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: numpy\nVersion: 1.21.5\n",
    }
    index.add("d2l", "0.17.7", [], evil)
    python = venv(tmp_path / "colab", SITE)
    with pytest.raises(SetupError, match=r"numpy was 2\.1\.3 and is 1\.21\.5") as caught:
        inplace.apply(OPTIONS, machine(), plan(package="d2l==0.17.7"), python)
    assert "Runtime > Disconnect and delete runtime" in str(caught.value)
    assert f"{python} -m pip install --no-deps --force-reinstall numpy==2.1.3" in str(caught.value)


def test_the_course_can_not_be_had(index: Index, tmp_path: Path) -> None:
    python = venv(tmp_path / "colab", SITE)
    with pytest.raises(SetupError, match=r"(?s)d2l==1\.0\.3 could not be installed: .*no version of d2l==1\.0\.3"):
        inplace.apply(OPTIONS, machine(), plan(package="d2l==1.0.3"), python)
    assert versions(python) == SITE


def test_another_version_of_the_course(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that has imported the old one has to be restarted; one that has not, has not."""
    monkeypatch.setattr(inplace, "_prove", lambda *_: inplace.Report(python="", level="proof"))
    index.add("d2l", "0.17.5", D2L_ASKS)
    python = venv(tmp_path / "colab", SITE)
    first = inplace.apply(OPTIONS, machine(), plan(package="d2l==0.17.5"), python)
    assert not any("Restart session" in note for note in first.record.notes)
    second = inplace.apply(OPTIONS, machine(), plan(), python)
    assert second.changed
    assert versions(python)["d2l"] == "0.17.6"
    assert any("d2l was 0.17.5: " in note and "Runtime > Restart session" in note for note in second.record.notes)


def test_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only on Colab and Kaggle"):
        inplace.apply(OPTIONS, machine(colab=False), plan(), tmp_path / "python")


def test_a_python_that_notebooks_do_not_run_in(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="%pip install dlenv"):
        inplace.apply(OPTIONS, machine(), plan(), venv(tmp_path / "tool", {"uv": "0.9.0"}))
    with pytest.raises(SetupError, match="can't be run"):
        inplace.apply(OPTIONS, machine(), plan(), tmp_path / "gone")


D2L = """
import torch

def train_ch3(net, train, test, loss, epochs, updater):
    for _ in range(epochs):
        for X, y in train:
            updater.zero_grad()
            loss(net(X), y).mean().backward()
            updater.step()

def evaluate_accuracy(net, data):
    with torch.no_grad():
        hits = [(net(X).argmax(1) == y).float().mean().item() for X, y in data]
    return sum(hits) / len(hits)
"""
# What the probe asks of Jupyter, answered by the environment's own Python, without Jupyter.
KERNEL = """
import contextlib, io

class KernelManager:
    def __init__(self, kernel_name): pass
    def start_kernel(self): pass
    def blocking_client(self): return self
    def start_channels(self): pass
    def stop_channels(self): pass
    def wait_for_ready(self, timeout): pass
    def shutdown_kernel(self, now): pass
    def execute_interactive(self, code, timeout, output_hook):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code)
        output_hook({"content": {"text": printed.getvalue()}})
        return {"content": {"status": "ok"}}
"""


@pytest.mark.slow
def test_the_course_works_in_place(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    others = ("ipykernel", "ipywidgets", "nbclient", "nbformat", "requests", "traitlets")
    python = venv(tmp_path / "colab", {name: SITE[name] for name in others})
    uv.run(["pip", "install", "--quiet", "--python", python, "--no-deps", "--no-index", *jupyter(tmp_path / "jupyter")])
    # PyTorch and the others: this folder lies in Python's path, as the system's packages do there.
    packages = tmp_path / f"colab/lib/python{VERSION}/site-packages"
    (packages / "system.pth").write_text(sysconfig.get_path("purelib") + "\n")
    index.add("d2l", "0.17.5", D2L_ASKS, {"d2l/__init__.py": "__version__ = '0.17.5'", "d2l/torch.py": D2L})
    before = versions(python)
    version, _, build = torch.__version__.partition("+")
    wanted = plan(version, build or "cpu", "d2l==0.17.5")

    outcome = inplace.apply(OPTIONS, machine(), wanted, python)
    assert outcome.changed
    assert outcome.problems == ()
    assert outcome.record.proof["ok"]
    assert outcome.environment == tmp_path / "colab"
    assert versions(python) == {**before, "d2l": "0.17.5", "matplotlib-inline": "0.1.7"}
    packages_of = {package.name: package.version for package in outcome.record.packages}
    assert packages_of["torch"] == metadata.version("torch")
    assert packages_of["d2l"] == "0.17.5"
    assert {"jupyter", "jupyterlab", "notebook"}.isdisjoint(packages_of)
    written = Record.read(tmp_path / "colab")
    assert written is not None
    assert json.loads(msgspec.json.encode(written)) == json.loads(msgspec.json.encode(outcome.record))

    capsys.readouterr()
    again = inplace.apply(OPTIONS, machine(), wanted, python)
    assert not again.changed
    assert again.record == written
    assert capsys.readouterr().err == ""


def jupyter(folder: Path) -> list[Path]:
    """What is imported of Jupyter: in packages of other names, since a course does not list these."""
    inline = {"matplotlib_inline/backend_inline.py": "", "IPython/__init__.py": ""}
    core = {"jupyter_core/__init__.py": "", "jupyter_core/paths.py": "def jupyter_path(*_): return []\n"}
    return [
        wheel(folder, "ipython", "7.34.0", files=inline),
        wheel(folder, "jupyter-core", "5.8.1", files=core),
        wheel(folder, "jupyter-client", "7.4.9", files={"jupyter_client/__init__.py": KERNEL}),
    ]
