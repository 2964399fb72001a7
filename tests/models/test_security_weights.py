"""Weights made to be read as something else than they say, each with the size and hash that its manifest has."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peak import grows_at_most
from safetensors.torch import load, save

from dlenv.errors import ModelInvalid
from dlenv_models.manifest import WEIGHTS
from dlenv_models.repository import Entry, Repository

Publish = Callable[..., Entry]


class Ran:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def parts(good: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack("<Q", good[:8])
    return json.loads(good[8 : 8 + size]), good[8 + size :]


def built(header: dict[str, Any] | bytes, data: bytes, *, says: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if says is None else says) + text + data


def changed(good: bytes, name: str, **values: Any) -> bytes:
    header, data = parts(good)
    header[name] = {**header[name], **values}
    return built(header, data)


def archive(trap: Path) -> bytes:
    """What torch.load would read: a ZIP file with a pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Ran(trap)))
        file.writestr("archive/version", "3")
    return buffer.getvalue()


def hole(good: bytes) -> bytes:
    """A gap that belongs to no tensor, for whatever somebody wants to hide there."""
    header, data = parts(good)
    for entry in header.values():
        entry["data_offsets"] = [at + 64 for at in entry["data_offsets"]]
    return built(header, bytes(64) + data)


def overlapping(good: bytes) -> bytes:
    header, data = parts(good)
    first, second = list(header)[:2]
    size = header[second]["data_offsets"][1] - header[second]["data_offsets"][0]
    header[second]["data_offsets"] = [0, size]
    assert header[first]["data_offsets"][0] == 0
    return built(header, data)


def twice(good: bytes) -> bytes:
    header, data = parts(good)
    other = [offset + 4 for offset in header["output.bias"]["data_offsets"]]
    text = (
        json.dumps(header)[:-1]
        + ","
        + json.dumps({"output.bias": {**header["output.bias"], "data_offsets": other}})[1:]
    )
    return built(text.encode(), data)


POISONS: dict[str, Callable[[bytes, Path], bytes]] = {
    "a header longer than the file": lambda good, _: built(*parts(good), says=len(good)),
    "a header of 2^64 - 1 bytes": lambda good, _: built(*parts(good), says=2**64 - 1),
    "a header of 100 MB that is not there": lambda good, _: built(*parts(good), says=100_000_000),
    "no header": lambda good, _: bytes(8),
    "seven bytes": lambda good, _: good[:7],
    "a header that is no JSON": lambda good, _: built(b"{" * 1000, parts(good)[1]),
    "a header of nested lists": lambda good, _: built(b"[" * 100_000, parts(good)[1]),
    "a header that is a list": lambda good, _: built(b"[]", parts(good)[1]),
    "a header that is no UTF-8": lambda good, _: built(b'{"\xff": 1}', parts(good)[1]),
    "offsets that end before they begin": lambda good, _: changed(good, "output.bias", data_offsets=[8, 0]),
    "negative offsets": lambda good, _: changed(good, "output.bias", data_offsets=[-8, 0]),
    "offsets beyond the end": lambda good, _: changed(good, "output.bias", data_offsets=[0, 2**40]),
    "offsets of 2^64": lambda good, _: changed(good, "output.bias", data_offsets=[0, 2**64]),
    "a shape that overflows": lambda good, _: changed(good, "output.bias", shape=[2**32, 2**32]),
    "a shape beyond its bytes": lambda good, _: changed(good, "output.bias", shape=[3]),
    "a shape of a million dimensions": lambda good, _: changed(good, "output.bias", shape=[1] * 1_000_000),
    "a million tensors": lambda good, _: built(
        {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(1_000_000)}, b""
    ),
    "tensors that share their bytes": lambda good, _: overlapping(good),
    "a gap between tensors": lambda good, _: hole(good),
    "a tensor named twice": lambda good, _: twice(good),
    "a ZIP file behind the tensors": lambda good, trap: good + archive(trap),
    "nothing but a ZIP file": lambda _, trap: archive(trap),
    "a pickle": lambda _, trap: pickle.dumps(Ran(trap)),
    "a pickle in place of the data": lambda good, trap: built(parts(good)[0], pickle.dumps(Ran(trap))),
}


def replace(path: Path, data: bytes) -> None:
    (path / WEIGHTS).write_bytes(data)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][WEIGHTS] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", POISONS)
def test_poisoned_weights_are_refused_quickly_and_nothing_is_run(
    tmp_path: Path, root: Path, publish: Publish, name: str
) -> None:
    trap = tmp_path / "ran"
    repository = Repository(root, shipped=None)
    path = publish(repository).path
    data = POISONS[name]((path / WEIGHTS).read_bytes(), trap)
    replace(path, data)
    began = time.monotonic()
    # What a header takes that is there, not what one claims.
    with grows_at_most(64 + 30 * len(data) / 2**20), pytest.raises(ModelInvalid, match="is refused"):
        repository.load("tiny")
    assert time.monotonic() - began < 60  # it takes 5 s on a quiet machine
    assert not trap.exists()


def test_what_metadata_holds_is_not_looked_at(tmp_path: Path, root: Path, publish: Publish) -> None:
    trap = tmp_path / "ran"
    repository = Repository(root, shipped=None)
    path = publish(repository).path
    tensors = load((path / WEIGHTS).read_bytes())
    replace(path, save(tensors, metadata={"pickle": pickle.dumps(Ran(trap), protocol=0).decode("latin-1")}))
    assert repository.load("tiny").manifest.name == "tiny"
    assert not trap.exists()
