from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vertical stroke, which is a 1, as PNG, JPEG and WebP."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:23, 13:16] = 255
    for extension in ("png", "jpg", "webp"):
        Image.fromarray(pixels).save(folder / f"one.{extension}")
    (folder / "notes.txt").write_text("no image")
    return folder


class Standard:
    """Standard input that holds this text."""

    def __init__(self, text: str) -> None:
        self.buffer = io.BytesIO(text.encode())


def test_files_and_folders(run: Run, images: Path) -> None:
    one = run("predict", "mnist-lenet", images / "one.png")
    assert one.code == 0
    header, line = one.stdout.splitlines()
    assert header == "input\tclass\tprobability"
    assert line.startswith(f"{images / 'one.png'}\t1\t")
    every = json.loads(run("predict", "mnist-lenet", images, "--json").stdout)
    assert [item["label"] for item in every["predictions"]] == ["1", "1", "1"]
    assert (every["model"], every["version"]) == ("mnist-lenet", 1)


@pytest.mark.parametrize("text", ['{"inputs": [[0.9, -0.2], [-0.6, 0.5]]}', "[[0.9, -0.2], [-0.6, 0.5]]"])
def test_rows_on_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", Standard(text))
    answer = json.loads(run("predict", "spiral-mlp/1", "-", "--json").stdout)
    assert [item["label"] for item in answer["predictions"]] == ["arm 3", "arm 2"]
    assert set(answer["predictions"][0]) == {"label", "index", "probability", "probabilities"}


def test_each_row_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Standard("[[0.9, -0.2], [-0.6, 0.5]]"))
    lines = run("predict", "spiral-mlp", "-").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["input", "-[0]", "-[1]"]


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("", 2, "standard input is not JSON"),
        ("{", 2, "standard input is not JSON"),
        ("[" * 200_000, 2, "standard input is not JSON"),
        ("\udcff", 2, "standard input is not JSON"),
        ("[]", 1, "-: the JSON holds no rows"),
        ("[[1, NaN]]", 1, "-: inputs[0][1] is nan"),
        ("[[1]]", 1, "-: inputs[0] is a list of 1, where a list of 2 belongs"),
    ],
)
def test_bad_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch, text: str, code: int, reason: str) -> None:
    standard = Standard("")
    standard.buffer = io.BytesIO(text.encode(errors="surrogateescape"))
    monkeypatch.setattr("sys.stdin", standard)
    result = run("predict", "spiral-mlp", "-")
    assert (result.code, result.stdout) == (code, "")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[NaN, 1]]", "inputs[0][0] is nan"),
        ("[[1, 2], [0.5, -Infinity], [NaN, 1]]", "inputs[1][1] is -inf"),
        ('{"inputs": [[1, 1e999]]}', "inputs[0][1] is inf"),
        ('{"inputs": [[1, 2]], "more": {"a": [0, NaN]}}', "'more'['a'][1] is nan"),
        (r'{"\ud800": NaN}', r"'\ud800' is nan"),
        ("Infinity", "inputs is inf"),
    ],
)
def test_numbers_that_are_not_json_never_reach_a_service(
    run: Run, monkeypatch: pytest.MonkeyPatch, service: str, text: str, reason: str
) -> None:
    for where in ((), ("--url", service)):
        monkeypatch.setattr("sys.stdin", Standard(text))
        result = run("predict", "good" if where else "spiral-mlp", "-", *where)
        assert (result.code, result.stdout) == (1, "")
        assert result.stderr == f"Error: -: {reason}, where a finite number belongs\n"
    assert Recorder.asked == []


def test_all_other_json_reaches_the_service_as_it_is(run: Run, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """Half a surrogate pair is JSON, though no text; the service says what it thinks of it."""
    for text in (
        r'{"inputs": [["\ud800", "ä"]]}',
        '{"inputs": [[1, 2]], "more": null}',
        "7",
        "[[123456789012345678901]]",
    ):
        monkeypatch.setattr("sys.stdin", Standard(text))
        assert run("predict", "good", "-", "--url", service).code == 0
        content = json.loads(text)
        sent = json.loads(Recorder.asked.pop()[2])
        assert sent == (content if isinstance(content, dict) else {"inputs": content})


@pytest.mark.parametrize("depth", [40, 900])
def test_json_nested_too_deeply(run: Run, monkeypatch: pytest.MonkeyPatch, service: str, depth: int) -> None:
    """Near the limit of recursion reading may still work where writing fails."""
    for where in ((), ("--url", service)):
        monkeypatch.setattr("sys.stdin", Standard("[" * depth + "]" * depth))
        result = run("predict", "good" if where else "spiral-mlp", "-", *where)
        assert (result.code, result.stdout) == (1, "")
        assert result.stderr == "Error: -: the JSON is nested deeper than 32 lists; send the model's input shape\n"
    assert Recorder.asked == []


def test_bad_files(run: Run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes((images / "one.png").read_bytes()[:60])
    (tmp_path / "empty").mkdir()
    for words, code, reason in (
        ((tmp_path / "cut.png",), 1, "cut.png: the image is truncated or damaged"),
        ((images / "notes.txt",), 1, "notes.txt: the file is no PNG, JPEG or WebP image"),
        ((tmp_path / "nothing.png",), 2, "nothing.png can't be read: No such file"),
        ((tmp_path / "empty",), 2, "holds no images (.png, .jpg, .jpeg, .webp)"),
        ((), 2, "Missing argument 'FILE...'"),
        (
            (images / "one.png", "--url", "http://127.0.0.1:9", "--deadline", "0.2"),
            1,
            "start `dlenv serve` there",
        ),
        ((images / "one.png", "--url", "no address"), 1, "no address/predict/mnist-lenet can't be asked"),
    ):
        result = run("predict", "mnist-lenet", *words)
        assert (result.code, result.stdout) == (code, "")
        assert reason in result.stderr
        assert "Traceback" not in result.stderr


class Recorder(BaseHTTPRequestHandler):
    """Records what is asked; the path decides over the answer."""

    asked: list[tuple[str, str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers["Content-Type"], body))
        prediction = {"label": "1", "index": 1, "probability": 0.75, "probabilities": {"0": 0.25, "1": 0.75}}
        status, answer = {
            "/predict/good": (200, json.dumps({"model": "good", "version": 3, "predictions": [prediction]})),
            "/predict/good/versions/2": (200, json.dumps({"model": "good", "version": 2, "predictions": [prediction]})),
            "/predict/busy": (429, json.dumps({"error": "The queue is full; try again after 1 s."})),
        }.get(self.path, (502, "<html>Bad gateway</html>"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    Recorder.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_running_service_is_asked(run: Run, images: Path, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Standard("[[1, 2]]"))
    result = run("predict", "good", images, "-", "--url", f"{service}/", "--json")
    assert len(json.loads(result.stdout)["predictions"]) == 4
    older = run("predict", "good/2", images / "one.png", "--url", service, "--json")
    assert json.loads(older.stdout)["version"] == 2
    Recorder.asked.pop()
    assert [kind for _, kind, _ in Recorder.asked] == ["image/jpeg", "image/png", "image/webp", "application/json"]
    assert Recorder.asked[1] == ("/predict/good", "image/png", (images / "one.png").read_bytes())
    assert json.loads(Recorder.asked[3][2]) == {"inputs": [[1, 2]]}


def test_what_a_service_refuses_is_told(run: Run, images: Path, service: str) -> None:
    busy = run("predict", "busy", images / "one.png", "--url", service, "--deadline", "1")
    assert busy.code == 1
    assert busy.stderr.endswith("one.png: The queue is full; try again after 1 s.\n")
    strange = run("predict", "strange", images / "one.png", "--url", service, "--deadline", "1")
    assert strange.code == 1
    assert "answered with status 502, but not as dlenv does" in strange.stderr
