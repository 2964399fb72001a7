from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dlenv.errors import DlenvError
from dlenv_models import zoo
from dlenv_models.data import load
from dlenv_models.evaluation import predict
from dlenv_models.interchange import export
from dlenv_models.repository import Repository

Run = Callable[..., Any]


@pytest.mark.slow
def test_onnx_answers_as_the_model_does(run: Run) -> None:
    result = run("models", "export", "mnist-lenet", "--format", "onnx", "--json")
    report = json.loads(result.stdout)
    assert report["file"] == "mnist-lenet-v1.onnx"
    assert report["largest_difference"] < 1e-5
    images = load("mnist5k").test.inputs[:50]
    session = onnxruntime.InferenceSession(report["file"], providers=["CPUExecutionProvider"])
    probabilities, labels = session.run(["probabilities", "label"], {"input": images.numpy()})
    model = Repository().load("mnist-lenet")
    wanted = predict(model.module, model.manifest.preprocessing, images).softmax(1)
    assert np.abs(probabilities - wanted.numpy()).max() < 1e-5
    assert (labels == wanted.argmax(1).numpy()).all()
    again = run("models", "export", "mnist-lenet", "--format", "onnx")
    assert again.code == 2
    assert "mnist-lenet-v1.onnx is there already" in again.stderr


def test_an_exported_program_answers_as_the_model_does(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "spiral.pt2"
    result = run("models", "export", "spiral-mlp", "--format", "torch-export", "--output", target)
    assert result.code == 0
    assert result.stdout == f"{target}\n"
    points = load("spiral").test.inputs[:50]
    probabilities, labels = torch.export.load(target).module()(points)
    model = Repository().load("spiral-mlp")
    wanted = predict(model.module, model.manifest.preprocessing, points).softmax(1)
    assert (probabilities - wanted).abs().max() < 1e-5
    assert torch.equal(labels, wanted.argmax(1))
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_can_not_be_written(run: Run) -> None:
    result = run("models", "export", "spiral-mlp", "--format", "torch-export", "--output", "/dev/null/x.pt2")
    assert result.code == 2
    assert "/dev/null/x.pt2 can't be written" in result.stderr


class Fickle(nn.Module):
    """Answers otherwise when it is traced."""

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        probabilities = torch.softmax(rows * (2 if torch.compiler.is_exporting() else 1), dim=1)
        return probabilities, probabilities.argmax(1)


def test_a_program_that_answers_otherwise_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DlenvError, match=r"probabilities are .* off, so it was not kept"):
        export(Fickle(), torch.randn(8, 3), "torch-export", tmp_path / "x.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def students(tmp_path: Path) -> Path:
    """What a student has after the book's way of training: names of nn.Sequential, pixels from 0 to 1."""
    digits = load("digits")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(150):
        loss = nn.functional.cross_entropy(net(digits.train.inputs / 255), digits.train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path / "net.safetensors"
    save_file(net.state_dict(), path)
    return path


def words(path: Path, tmp_path: Path, *more: object) -> tuple[object, ...]:
    fixed = ("--architecture", "mlp", "--data", "digits", "--name", "mine", "--repository", tmp_path / "r")
    return ("models", "import", path, *fixed, *more)


def test_weights_of_ones_own_are_measured_and_published(run: Run, students: Path, tmp_path: Path) -> None:
    result = run(*words(students, tmp_path, "--hidden", 32, "--mean", 0, "--std", 1))
    assert result.code == 0
    assert result.stdout == "mine/1\n"
    assert "1.weight is taken for dense1.weight." in result.stderr
    manifest = Repository(tmp_path / "r", shipped=None).load("mine").manifest
    assert manifest.metrics.test_accuracy > 0.9
    assert manifest.preprocessing.mean == (0.0,)
    verified = run("models", "verify", "mine", "--repository", tmp_path / "r")
    assert "mine/1\tok" in verified.stdout


def test_names_of_dlenv_are_taken_as_they_are(run: Run, students: Path, tmp_path: Path) -> None:
    assert run(*words(students, tmp_path, "--hidden", 32, "--mean", 0, "--std", 1)).code == 0
    published = Repository(tmp_path / "r", shipped=None).entry("mine").path / "model.safetensors"
    result = run(*words(published, tmp_path, "--hidden", 32, "--mean", 0, "--std", 1, "--json"))
    assert json.loads(result.stdout)["version"] == 2
    assert "is taken for" not in result.stderr


@pytest.mark.parametrize(
    ("more", "code", "reason"),
    [
        (("--mean", 0, "--std", 1), 1, "holds tensors of the shapes [32, 64], [32], [10, 32], [10], but"),
        (("--hidden", "32", "--mean", "0,0", "--std", 1), 2, "mean: 2 numbers, where 1 or 1 belong"),
        (("--hidden", "32", "--mean", 0, "--std", 0), 2, "std: 0 is not above 0"),
        (("--hidden", "32", "--std", 1), 2, "Missing option '--mean'"),
        (("--hidden", "32", "--mean", "zero", "--std", 1), 2, "'zero' is not numbers"),
        (("--channels", "6,16", "--mean", 0, "--std", 1), 2, "channels: mlp takes no such argument"),
        (("--hidden", "32", "--mean", 0, "--std", 1, "--name", "../x"), 1, "'../x' is not a model name"),
    ],
)
def test_what_does_not_fit_is_not_published(
    run: Run, students: Path, tmp_path: Path, more: tuple[object, ...], code: int, reason: str
) -> None:
    result = run(*words(students, tmp_path, *more))
    assert result.code == code
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert Repository(tmp_path / "r", shipped=None, create=True).entries() == []


def ensemble(tmp_path: Path) -> tuple[Path, nn.Module]:
    """What votes: untrained, but each otherwise."""
    torch.manual_seed(1)
    shape = {"input_shape": [1, 8, 8], "classes": 10}
    members = [{"name": "mlp", "arguments": {"hidden": [12]}}, {"name": "linear", "arguments": {}}]
    module = zoo.build("ensemble", members=members, **shape).eval()
    path = tmp_path / "votes.safetensors"
    save_file(module.state_dict(), path)
    return path, module


def test_an_ensembles_members_are_named(run: Run, tmp_path: Path) -> None:
    path, module = ensemble(tmp_path)
    fixed = ("--architecture", "ensemble", "--data", "digits", "--name", "votes", "--repository", tmp_path / "r")
    fixed = ("models", "import", path, *fixed, "--mean", 0, "--std", 1)
    result = run(*fixed, "--members", "mlp,linear", "--hidden", 12)
    assert result.code == 0, result.stderr
    model = Repository(tmp_path / "r", shipped=None).load("votes")
    assert [each["name"] for each in model.manifest.architecture.arguments["members"]] == ["mlp", "linear"]
    assert "--members mlp,linear" in model.manifest.training.command
    rows = load("digits").test.inputs[:5] / 255
    torch.testing.assert_close(model.module(rows), module(rows))
    for words, code, text in (
        ((), 2, "members: say which vote, such as --members mlp,linear"),
        (("--members", "linear,mlp", "--hidden", 12), 1, "holds tensors of the shapes"),
        (("--members", "mlp,linear", "--code", 3), 2, "code: none of mlp, linear takes such an argument"),
        (("--members", "mlp,oracle"), 2, "'oracle' is not one of"),
        (("--members", "mlp"), 2, "members: a list of 1 items"),
    ):
        refused = run(*fixed, *words)
        assert refused.code == code, refused.stderr
        assert text in refused.stderr
    alone = run(*words_of_mlp(path, tmp_path), "--members", "mlp,mlp")
    assert (alone.code, alone.stderr) == (2, "Error: members: mlp has none; leave it out\n")


def words_of_mlp(path: Path, tmp_path: Path) -> tuple[object, ...]:
    return words(path, tmp_path, "--mean", 0, "--std", 1)


def test_a_pickle_is_refused(run: Run, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "net.pt")
    result = run(*words(tmp_path / "net.pt", tmp_path, "--mean", 0, "--std", 1))
    assert result.code == 1
    assert "is not in safetensors format" in result.stderr
    assert "safetensors.torch.save_file" in result.stderr
    gone = run(*words(tmp_path / "gone", tmp_path, "--mean", 0, "--std", 1))
    assert gone.code == 2
    assert "can't be read: No such file" in gone.stderr


def test_a_file_much_too_large_is_not_read(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**34)
    result = run(*words(tmp_path / "huge", tmp_path, "--mean", 0, "--std", 1))
    assert result.code == 1
    assert "has 17,179,869,184 bytes, far more than mlp" in result.stderr


def test_a_card(run: Run, tmp_path: Path) -> None:
    printed = run("models", "card", "mnist-lenet").stdout
    assert run("models", "card", "mnist-lenet", "--output", tmp_path / "CARD.md").code == 0
    assert (tmp_path / "CARD.md").read_text() == printed
    assert printed.startswith("# mnist-lenet, version 1")
