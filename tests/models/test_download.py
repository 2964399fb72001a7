"""Downloads against a real server on this machine: right, wrong, truncated, failing, and not there at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from dlenv.errors import DataError, Unreachable
from dlenv_models.data.download import File, fetch
from dlenv_models.data.published import PUBLISHED, Published, published

CONTENT = b"the real content" * 1000
FILE = File("data.bin", hashlib.md5(CONTENT).hexdigest())


class Mirror(BaseHTTPRequestHandler):
    """``/good`` serves ``files``; the other folders fail, each in its own way."""

    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        folder, _, name = self.path.lstrip("/").partition("/")
        content = self.files.get(name)
        if folder == "broken":
            self.send_error(500)
        elif content is None or folder not in ("good", "wrong", "truncated"):
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write({"wrong": content[::-1], "truncated": content[: len(content) // 2]}.get(folder, content))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[str]:
    Mirror.files, Mirror.asked = {FILE.name: CONTENT}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_is_downloaded_once(mirror: str, tmp_path: Path) -> None:
    path = fetch(FILE, [f"{mirror}/good/"], tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    fetch(FILE, [f"{mirror}/good"], path.parent)
    assert Mirror.asked == ["/good/data.bin"]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("broken", "HTTP 500"),
        ("missing", "HTTP 404"),
        ("wrong", "wrong checksum: MD5 .* not " + FILE.md5),
        ("truncated", "peer closed connection"),
    ],
)
def test_a_bad_mirror_is_passed_over(mirror: str, tmp_path: Path, folder: str, reason: str) -> None:
    talk: list[str] = []
    path = fetch(FILE, [f"{mirror}/{folder}", f"{mirror}/good"], tmp_path, talk.append)
    assert path.read_bytes() == CONTENT
    assert Mirror.asked == [f"/{folder}/data.bin", "/good/data.bin"]
    with pytest.raises(Unreachable, match=reason):
        fetch(FILE, [f"{mirror}/{folder}"], tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []  # nothing half-written


def test_no_mirror_names_every_address_and_what_to_do(mirror: str, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    with pytest.raises(Unreachable) as caught:
        fetch(FILE, [nobody, f"{mirror}/broken", "not an address"], tmp_path)
    text = str(caught.value)
    for part in (
        f"{nobody}/data.bin",
        f"{mirror}/broken/data.bin (HTTP 500)",
        "not an address/data.bin",
        "--mirror URL",
    ):
        assert part in text
    assert str(tmp_path) in text
    assert "\n" not in text


def test_a_damaged_file_is_downloaded_again(mirror: str, tmp_path: Path) -> None:
    (tmp_path / FILE.name).write_bytes(CONTENT[:100])
    assert fetch(FILE, [f"{mirror}/good"], tmp_path).read_bytes() == CONTENT


def test_an_unwritable_folder(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"can't be written .* --data-dir"):
        fetch(FILE, [f"{mirror}/good"], tmp_path / "file" / "data")


def idx(values: np.ndarray) -> bytes:  # type: ignore[type-arg]
    """The format of MNIST's files: magic number with the rank, sizes, bytes."""
    return gzip.compress(struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes())


def small(name: str, contents: dict[str, bytes]) -> Published:
    real = PUBLISHED[name]
    files = tuple(File(key, hashlib.md5(content).hexdigest()) for key, content in contents.items())
    Mirror.files = contents
    return Published(real.name, real.kind, real.folder, files, real.mirrors, real.source, real.license)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_files_are_fetched_and_read(mirror: str, tmp_path: Path, name: str) -> None:
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (60, 28, 28)).astype(np.uint8)
    labels = np.tile(np.arange(10, dtype=np.uint8), 6)
    contents = {
        "train-images-idx3-ubyte.gz": idx(images[:40]),
        "train-labels-idx1-ubyte.gz": idx(labels[:40]),
        "t10k-images-idx3-ubyte.gz": idx(images[40:]),
        "t10k-labels-idx1-ubyte.gz": idx(labels[40:]),
    }
    assert set(contents) == {file.name for file in PUBLISHED[name].files}
    tiny = small(name, contents)
    dataset = published(tiny, 0, tmp_path, f"{mirror}/good")
    assert dataset.row_shape == (1, 28, 28)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (30, 10, 20)
    np.testing.assert_array_equal(dataset.test.inputs[:, 0].numpy(), images[40:])
    assert len(dataset.classes) == 10
    Mirror.asked.clear()
    published(tiny, 0, tmp_path, "http://127.0.0.1:9")
    assert Mirror.asked == []
    assert not list(tmp_path.rglob(".*"))


def test_cifar_of_the_wrong_content_is_refused(mirror: str, tmp_path: Path) -> None:
    """torchvision checks the MD5 of each batch before it unpickles one, so a made-up archive gets no further."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("data_batch_1", "test_batch"):
            content = pickle.dumps({"data": [], "labels": []})
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    tiny = small("cifar10", {"cifar-10-python.tar.gz": buffer.getvalue()})
    with pytest.raises(DataError, match=r"files of cifar10 in .* are damaged"):
        published(tiny, 0, tmp_path, f"{mirror}/good")


def test_an_archive_that_leaves_its_folder_is_refused(mirror: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"))
    tiny = small("cifar10", {"cifar-10-python.tar.gz": buffer.getvalue()})
    with pytest.raises(DataError, match=r"can't be used: .*evil"):
        published(tiny, 0, tmp_path / "a" / "b", f"{mirror}/good")
    assert not list(tmp_path.rglob("evil"))
