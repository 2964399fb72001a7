"""Room on the disks is looked at before anything is downloaded."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from http_server import Page, Server
from wheel_index import wheel

from dlenv.errors import SetupError
from dlenv.machine import Machine, Nvml
from dlenv.managers import venv
from dlenv.plan import Candidate, Plan, Request
from dlenv.setup import pipeline, room
from dlenv.setup.model import Options
from dlenv.setup.room import Place

GB = 10**9


def place(path: str, free: float, device: int = 1) -> Place:
    return Place(path=Path(path), free=round(free * GB), device=device)


@pytest.mark.parametrize(
    ("env", "cache", "is_empty", "warning"),
    [
        (place("/env", 9), place("/cache", 9), True, None),
        (
            place("/env", 4),
            place("/cache", 4),
            True,
            "on that of /env there are 4.0 GB free, which may not be enough",
        ),
        (place("/env", 4), place("/cache", 4), False, "4.0 GB free: not enough, unless uv has most of them cached"),
        (place("/env", 1), place("/cache", 1), False, "1.0 GB free: not enough, unless uv has most of them cached"),
        (place("/env", 4), place("/cache", 9, 2), True, "on that of /env there are 4.0 GB free, which may not"),
        (place("/env", 9), place("/cache", 1, 2), False, "on that of /cache there are 1.0 GB free: not enough, unless"),
        (place("/env", 6), place("/cache", 6, 2), True, None),
    ],
)
def test_what_may_not_fit_is_told(env: Place, cache: Place, is_empty: bool, warning: str | None) -> None:
    said = room.judge(3 * GB, env, cache, is_empty=is_empty)
    if warning is None:
        assert said is None
    else:
        assert said is not None
        assert warning in said
        assert said.startswith("the packages take about 5.7 GB of disk (3.0 GB to download), and ")


@pytest.mark.parametrize(
    ("env", "cache", "is_empty", "advice"),
    [
        (
            place("/env", 2),
            place("/cache", 2),
            True,
            "or choose another --env and name a folder on another by UV_CACHE_DIR, too",
        ),
        (place("/env", 2), place("/cache", 9, 2), False, "or choose another --env"),
        (place("/env", 9), place("/cache", 2, 2), True, "or name a folder on another by UV_CACHE_DIR"),
        (place("/env", 4), place("/cache", 2, 2), True, "or name a folder on another by UV_CACHE_DIR"),
    ],
)
def test_what_certainly_does_not_fit_is_an_error(env: Place, cache: Place, is_empty: bool, advice: str) -> None:
    with pytest.raises(SetupError, match=rf"2\.0 GB free; make room there, {advice}$"):
        room.judge(3 * GB, env, cache, is_empty=is_empty)


def test_the_disks_are_those_of_the_environment_and_of_uvs_cache(tmp_path: Path) -> None:
    variables = {"UV_CACHE_DIR": str(tmp_path / "not" / "yet")}
    free = shutil.disk_usage(tmp_path).free
    assert room.check(free // 100, tmp_path / "env", variables) is None
    said = room.check(free * 9 // 10, tmp_path / "env", variables)
    assert said is not None
    assert f"on that of {tmp_path / 'env'} " in said
    with pytest.raises(SetupError, match="to download"):
        room.check(free * 2, tmp_path / "env", variables)
    (tmp_path / "not" / "yet" / "archive-v0" / "wheel").mkdir(parents=True)
    said = room.check(free * 2, tmp_path / "env", variables)
    assert said is not None
    assert said.endswith("unless uv has most of them cached")


def test_nothing_is_downloaded_for_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that states sizes (PEP 700), as PyPI does."""
    with Server() as server:
        for name in ("torch", "torchvision"):
            file, content, metadata = wheel(name, "2.15.0", "py3-none-any")
            entry = {
                "filename": file,
                "url": f"{server.url}/files/{file}",
                "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
                "size": 10**15,
                "core-metadata": True,
            }
            page = {"meta": {"api-version": "1.1"}, "name": name, "versions": ["2.15.0"], "files": [entry]}
            kind = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
            server.pages[f"/simple/{name}/"] = Page(json.dumps(page).encode(), etag=None, headers=kind)
            server.pages[f"/files/{file}.metadata"] = Page(metadata)
            server.pages[f"/files/{file}"] = Page(content)
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{server.url}/simple")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
        torch = Candidate(torch="2.15.0", torchvision="2.15.0", build="cpu", index=None)
        plan = Plan(manager="uv", python="{}.{}".format(*sys.version_info), torch=torch)
        machine = Machine(os="linux", os_version="-", kernel="-", arch="x86_64", python="-", nvml=Nvml(status="ok"))
        options = Options(env=tmp_path / "env", request=Request(course=None))
        with pytest.raises(SetupError, match=r"take about 3\.8 PB of disk \(2\.0 PB to download\)"):
            pipeline.build(options, machine, plan, venv.create)
        assert not [path for path in server.paths if path.endswith(".whl")]
    assert not (tmp_path / "env").exists()
