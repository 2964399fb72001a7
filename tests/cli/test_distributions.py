from __future__ import annotations

import json
import sys
import time
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from dlenv.environment.distributions import conda_packages, installed, site_packages

METADATA = """Metadata-Version: 2.1
Name: Ruamel.Yaml
Version: 0.18.6
License: first line
        Name: not this one
Requires-Python: >=3.8
Requires-Dist: numpy (==1.21.5)
Requires-Dist: pandas>=2 ; extra == 'all'

Version: of the description
"""


def distribution(folder: Path, name: str, text: str = METADATA) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / "METADATA").write_text(text)
    return path


def test_reads_what_is_declared(tmp_path: Path) -> None:
    path = distribution(tmp_path, "ruamel.yaml-0.18.6.dist-info")
    (path / "INSTALLER").write_text("uv\n")
    (found,) = installed([tmp_path])
    assert (found.name, found.version, found.installer) == ("ruamel-yaml", "0.18.6", "uv")
    assert found.requires == ("numpy (==1.21.5)", "pandas>=2 ; extra == 'all'")
    assert found.requires_python == ">=3.8"
    assert found.location == str(tmp_path)


def test_copies_are_kept_apart_in_the_order_of_the_path(tmp_path: Path) -> None:
    for folder, version in (("b", "2.6.0"), ("a", "2.8.0")):
        distribution(tmp_path / folder, f"torch-{version}.dist-info", f"Name: torch\nVersion: {version}\n")
    found = installed([tmp_path / "b", tmp_path / "a"])
    assert [(item.name, item.version) for item in found] == [("torch", "2.6.0"), ("torch", "2.8.0")]


def test_two_names_of_one_folder_count_once(tmp_path: Path) -> None:
    distribution(tmp_path / "lib", "ruamel.yaml-0.18.6.dist-info")
    (tmp_path / "lib64").symlink_to("lib")
    assert len(installed([tmp_path / "lib", tmp_path / "lib64", tmp_path / "lib"])) == 1


def test_eggs(tmp_path: Path) -> None:
    (tmp_path / "old-1.0-py3.8.egg-info").write_text("Name: old\nVersion: 1.0\n")
    (tmp_path / "develop.egg-info").mkdir()
    (tmp_path / "develop.egg-info" / "PKG-INFO").write_text("Name: develop\nVersion: 0.1\n")
    assert {(item.name, item.version) for item in installed([tmp_path])} == {("old", "1.0"), ("develop", "0.1")}


def test_rubbish_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "torch-2.8.0.dist-info").mkdir()
    distribution(tmp_path, "latin-1.0.dist-info", "").joinpath("METADATA").write_bytes(b"Name: \xff\nVersion: 1\n")
    (tmp_path / "file.zip").write_bytes(b"PK")
    found = {item.name: item.version for item in installed([tmp_path / "file.zip", tmp_path / "none", tmp_path])}
    assert found["torch"] is None
    assert len(found) == 2


def test_missing_files(tmp_path: Path) -> None:
    path = distribution(tmp_path, "torch-2.8.0.dist-info", "Name: torch\nVersion: 2.8.0\n")
    (path / "RECORD").write_text('torch/__init__.py,,\n"torch/a,b.py",,\ntorch/__pycache__/x.pyc,,\n')
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "a,b.py").touch()
    (found,) = installed([tmp_path])
    assert found.missing_files() == [tmp_path / "torch" / "__init__.py"]


def test_conda(tmp_path: Path) -> None:
    folder = tmp_path / "conda-meta"
    folder.mkdir()
    facts = {"name": "pytorch", "version": "2.5.1", "build": "py3.12_cuda12.4", "channel": "pytorch", "files": ["a"]}
    (folder / "pytorch-2.5.1.json").write_text(json.dumps(facts))
    (folder / "broken.json").write_text("{")
    (found,) = conda_packages(tmp_path)
    assert (found.name, found.version, found.channel) == ("pytorch", "2.5.1", "pytorch")
    assert conda_packages(tmp_path / "nowhere") == ()


def test_agrees_with_the_standard_library_and_is_quick() -> None:
    began = time.perf_counter()
    found = installed(sys.path)
    seconds = time.perf_counter() - began
    expected = {(canonicalize_name(dist.name), dist.version) for dist in metadata.distributions() if dist.name}
    assert {(item.name, item.version) for item in found} == expected
    requires = {item.name: sorted(item.requires) for item in found}
    assert requires["dlenv"] == sorted(metadata.requires("dlenv") or [])
    assert seconds < 1, f"{len(found)} distributions took {seconds:.2f} s"


def test_site_packages_of_this_environment() -> None:
    folders = site_packages(Path(sys.prefix))
    assert any((folder / "pytest").is_dir() for folder in folders)
