from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlenv_models.data import load
from dlenv_models.evaluation import measure
from dlenv_models.repository import Repository

Run = Callable[..., Any]
QUICK = ("--epochs", 2)


def test_train_publishes_draws_and_reports(run: Run, tmp_path: Path) -> None:
    result = run("train", "mlp", "--data", "spiral", *QUICK, "--hidden", "8,4", "--repository", tmp_path / "r")
    assert result.code == 0
    manifest = Repository(tmp_path / "r", shipped=None).load("spiral-mlp").manifest
    # No folder of this machine, only what makes the model.
    assert manifest.training.command == "dlenv train mlp --data spiral --hidden 8,4 --epochs 2"
    assert manifest.training.options["epochs_run"] == 2
    assert manifest.architecture.arguments["hidden"] == [8, 4]
    accuracy = f"{manifest.metrics.test_accuracy:.2%}"
    assert f"held-out accuracy\t{accuracy} of 999 rows" in result.stdout
    version = manifest.version
    pictures = {path.name for path in Path(f"runs/spiral-mlp-v{version}").iterdir()}
    assert pictures == {
        *("learning-curves.png", "confusion-matrix.png", "decision-boundary.png"),
        *("gradient-norms.png", "history.csv", "metrics.json", "run.json", "metrics.jsonl"),
    }
    record = json.loads(Path(f"runs/spiral-mlp-v{version}/run.json").read_text())
    speed = record["result"]["rows_per_second"]
    assert f"speed\t{speed:,.0f} rows/s\n" in result.stdout
    lines = Path(f"runs/spiral-mlp-v{version}/metrics.jsonl").read_text().splitlines()
    assert speed == pytest.approx(sum(json.loads(line)["rate"] for line in lines) / 2)  # the median of two
    assert "rows_per_second_per_worker" not in record["result"]
    assert "Training mlp on spiral: 1,800 rows" in result.stderr
    assert "epoch 2/2: loss" in result.stderr
    assert "examples/s" in result.stderr


def test_json_is_all_that_stdout_holds(run: Run, tmp_path: Path) -> None:
    places = ("--repository", tmp_path / "r", "--output", tmp_path / "o")
    result = run("train", "linear", "--data", "digits", *QUICK, "--name", "mine", "--json", *places)
    report = json.loads(result.stdout)
    assert report["model"] == "mine"
    assert report["version"] == 1
    assert 0.5 < report["test_accuracy"] < 1
    assert report["rows_per_second"] > 0
    for path in report["files"]:
        assert Path(path).is_file()
        assert Path(path).parent == tmp_path / "o"
    again = run("train", "linear", "--data", "digits", *QUICK, "--name", "mine", "--json", *places)
    assert json.loads(again.stdout)["version"] == 2
    assert json.loads(again.stdout)["test_loss"] == report["test_loss"]


def test_every_option_reaches_the_training(run: Run, tmp_path: Path) -> None:
    options = (
        *(
            "--activation",
            "tanh",
            "--dropout",
            0.1,
            "--batch-norm",
            "--init",
            "kaiming",
            "--epochs",
            1,
            "--batch-size",
            100,
        ),
        *("--optimizer", "sgd", "--lr", 0.02, "--momentum", 0.8, "--weight-decay", 0.001, "--schedule", "constant"),
        *("--warmup", 0, "--clip", 2, "--clip-value", 0.5, "--normalize-gradients", "--label-smoothing", 0.1),
        *("--patience", 3, "--no-augment", "--precision", "bf16", "--seed", 7, "--device", "cpu", "--threads", 1),
    )
    assert run("train", "mlp", "--data", "digits", *options, "--repository", tmp_path / "r").code == 0
    manifest = Repository(tmp_path / "r", shipped=None).entry("digits-mlp").manifest
    assert manifest is not None
    arguments, training = manifest.architecture.arguments, manifest.training
    assert {key: arguments[key] for key in ("activation", "dropout", "batch_norm", "init")} == {
        "activation": "tanh",
        "dropout": 0.1,
        "batch_norm": True,
        "init": "kaiming",
    }
    seconds = training.options["seconds"]
    assert training.options == {
        "epochs": 1,
        "batch_size": 100,
        "optimizer": "sgd",
        "lr": 0.02,
        "momentum": 0.8,
        "weight_decay": 0.001,
        "schedule": "constant",
        "warmup": 0,
        "clip": 2,
        "clip_value": 0.5,
        "normalize_gradients": True,
        "label_smoothing": 0.1,
        "patience": 3,
        "augment": False,
        "precision": "bf16",
        "pretrain": 0,
        "freeze": False,
        "device": "cpu",
        "threads": 1,
        "epochs_run": 1,
        "seconds": seconds,
    }
    assert training.seed == 7
    assert training.command == " ".join(["dlenv", "train", "mlp", "--data", "digits", *map(str, options)]).replace(
        "--clip 2", "--clip 2.0"
    )


def test_folds_measure_and_publish_nothing(run: Run, tmp_path: Path) -> None:
    words = ("train", "linear", "--data", "digits", *QUICK, "--folds", 3, "--repository", tmp_path / "r")
    lines = run(*words).stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["fold", "1", "2", "3", "mean", "deviation"]
    report = json.loads(run(*words, "--json").stdout)
    accuracies = [fold["accuracy"] for fold in report["folds"]]
    assert sum(fold["rows"] for fold in report["folds"]) == 1438
    assert report["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert report["deviation"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert not (tmp_path / "r").exists()
    record = json.loads(Path("runs/digits-linear-folds-2/run.json").read_text())
    assert report["folder"] == "runs/digits-linear-folds-2"
    assert sorted(path.name for path in Path("runs").iterdir()) == ["digits-linear-folds", "digits-linear-folds-2"]
    assert (record["state"], record["epochs"], record["model"]) == ("finished", 6, None)
    assert record["parameters"]["folds"] == 3
    assert record["result"]["validation_accuracy"] == report["mean"]["accuracy"]
    assert record["result"]["validation_loss_deviation"] == report["deviation"]["loss"]


@pytest.mark.parametrize(
    ("architecture", "words"), [("mlp", ("--patience", 1)), ("ensemble", ("--members", "linear,mlp"))]
)
def test_validation_figures_are_those_of_the_model_that_is_published(
    run: Run, tmp_path: Path, architecture: str, words: tuple[object, ...]
) -> None:
    """Not those of the last epoch, or of the last member."""
    rates = ("--epochs", 6, "--optimizer", "sgd", "--lr", 0.9, "--schedule", "constant", "--no-augment")
    words = ("train", architecture, "--data", "digits", *rates, *words, "--repository", tmp_path / "r", "--json")
    report = json.loads(run(*words).stdout)
    model = Repository(tmp_path / "r", shipped=None).load(f"digits-{architecture}")
    digits = load("digits")
    held = measure(model.module, model.manifest.preprocessing, digits.validation, 10)
    assert report["validation_loss"] == pytest.approx(held.test_loss)
    record = json.loads(Path(f"runs/digits-{architecture}-v1/run.json").read_text())
    assert record["result"]["validation_loss"] == report["validation_loss"]
    last = json.loads(Path(f"runs/digits-{architecture}-v1/metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation_loss"] != pytest.approx(held.test_loss)


def test_an_ensemble_is_a_model_like_any_other(run: Run, tmp_path: Path) -> None:
    repository = ("--repository", tmp_path / "r")
    words = ("train", "ensemble", "--data", "digits", *QUICK, "--members", "mlp,linear", "--hidden", 16)
    assert run(*words, "--name", "vote", *repository).code == 0
    manifest = Repository(tmp_path / "r", shipped=None).load("vote").manifest
    assert [member["name"] for member in manifest.architecture.arguments["members"]] == ["mlp", "linear"]
    assert (
        manifest.training.command
        == "dlenv train ensemble --data digits --name vote --members mlp,linear --hidden 16 --epochs 2"
    )
    assert manifest.training.options["member 2: augment"] is False
    assert run("models", "verify", "vote", *repository).code == 0


def test_what_is_learned_without_labels_is_shown(run: Run, tmp_path: Path) -> None:
    words = ("train", "rbm", "--data", "digits", *QUICK, "--pretrain", 2, "--repository", tmp_path / "r")
    assert run(*words, "--output", tmp_path / "o").code == 0
    with Image.open(tmp_path / "o" / "reconstructions.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20
    assert run("models", "verify", "digits-rbm", "--repository", tmp_path / "r").code == 0


def test_a_folder_of_images(run: Run, tmp_path: Path) -> None:
    for label, value in (("dark", 30), ("light", 220)):
        (tmp_path / "shades" / label).mkdir(parents=True)
        for number in range(20):
            noise = np.random.RandomState(number).randint(-20, 20, (16, 16))
            Image.fromarray((value + noise).astype(np.uint8)).save(tmp_path / "shades" / label / f"{number}.png")
    folder = tmp_path / "shades"
    options = ("--image-size", 12, "--epochs", 20, "--repository", tmp_path / "r")
    assert run("train", "linear", "--data", folder, *options).code == 0
    manifest = Repository(tmp_path / "r", shipped=None).entry("shades-linear").manifest
    assert manifest is not None
    assert manifest.classes == ("dark", "light")
    assert manifest.row_shape == (1, 12, 12)
    assert manifest.metrics.test_accuracy == 1.0
    assert manifest.training.command == "dlenv train linear --data shades --epochs 20 --image-size 12"
    verified = run("models", "verify", "--repository", tmp_path / "r", "shades-linear")
    assert verified.code == 0
    assert "skipped" in verified.stdout
    evaluated = run("evaluate", "shades-linear", "--data", folder, "--repository", tmp_path / "r", "--json")
    assert json.loads(evaluated.stdout)["rows"] == 40
    predicted = run("predict", "shades-linear", folder / "light", "--repository", tmp_path / "r", "--json")
    assert {item["label"] for item in json.loads(predicted.stdout)["predictions"]} == {"light"}


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (
            ("lenett", "--data", "spiral"),
            2,
            "rbm, dbn, ensemble; did you mean 'lenet'?",
        ),
        (("mlp", "--data", "spiral", "--members", "mlp,mlp"), 2, "members: mlp has none"),
        (("ensemble", "--data", "spiral", "--members", "mlp"), 2, "members: a list of 1 items, where 2 to 16 belong"),
        (("ensemble", "--data", "spiral", "--members", ""), 2, "members: a list of 1 items, where 2 to 16 belong"),
        (("mlp", "--data", "spiral", "--track", "tensorboard:/proc/x"), 1, "files can't be written to /proc/x"),
        (("ensemble", "--data", "spiral", "--folds", "3"), 2, "folds: an ensemble can't be cross-validated"),
        (("mlp", "--data", "spiral", "--pretrain", "3"), 2, "pretrain: mlp learns nothing without labels"),
        (("mlp", "--data", "spirl"), 2, "no dataset 'spirl'"),
        (("mlp",), 2, "Missing option '--data'"),
        (("mlp", "--data", "spiral", "--optimizer", "adm"), 2, "'adm' is not one of 'sgd', 'adam', 'adamw'"),
        (("mlp", "--data", "spiral", "--epochs", "many"), 2, "'many' is not a valid integer"),
        (("mlp", "--data", "spiral", "--epochs", "0"), 2, "epochs: 0 is not between"),
        (("mlp", "--data", "spiral", "--hidden", "12,x"), 2, "'12,x' is not whole numbers"),
        (("mlp", "--data", "spiral", "--hidden", "1000000000"), 2, "hidden[0]: 1000000000 is not between 1 and 8192"),
        (("linear", "--data", "spiral", "--dropout", "0.1"), 2, "dropout: linear takes no such argument"),
        (("lenet", "--data", "spiral"), 2, "lenet takes images"),
        (("lenet", "--data", "digits"), 2, "at least 12 x 12 pixels"),
        (("mlp", "--data", "spiral", "--augment"), 2, "spiral holds no images"),
        (("mlp", "--data", "spiral", "--name", "../evil"), 2, "'../evil' is not a model name"),
        (("mlp", "--data", "spiral", "--seed", "-1"), 2, "seed: -1"),
        (("resnet18", "--data", "digits", "--batch-size", "1"), 2, "batch_size: 1 is too small for resnet18"),
        (("mlp", "--data", "spiral", "--device", "tpu"), 2, "device: 'tpu'"),
        (("mlp", "--data", "spiral", "--repository", "/dev/null"), 1, "is a file, not a model repository"),
        (("mlp", "--data", "spiral", "--repository", "/proc/nothing"), 1, "can't be written"),
        (("mlp", "--data", "spiral", "--output", "/proc/nothing"), 2, "can't be written"),
        (("mlp", "--data", "mnist", "--data-dir", "/proc/nothing"), 1, "can't be written"),
        (("mlp", "--data", "mnist", "--mirror", "http://127.0.0.1:9"), 1, "no mirror gave train-images-idx3-ubyte.gz"),
        (("mlp", "--data", "/proc/self/fdinfo"), 1, "holds 0 class folders"),
    ],
)
def test_misuse_is_one_line_and_nothing_is_trained(run: Run, words: tuple[str, ...], code: int, reason: str) -> None:
    result = run("train", *words)
    assert result.code == code
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
    assert "epoch" not in result.stderr.replace("epochs", "")
    assert result.stdout == ""
    assert [entry for entry in Repository().entries() if not entry.shipped] == []
    assert not list(Path("runs").glob("*/run.json"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupting_publishes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "r"
    words = ["train", "mlp", "--data", "spiral", "--epochs", "100000", "--repository", str(root)]
    # A test run in the background of a shell ignores SIGINT, and its children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "dlenv", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        signal.signal(signal.SIGINT, before)
        assert process.stderr is not None
        try:
            while not process.stderr.readline().startswith("epoch 1/"):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert stderr.endswith("Interrupted.\n")
    assert list(root.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
def test_a_terminal_shows_a_bar_and_a_table(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    words = ["train", "linear", "--data", "spiral", "--epochs", "20", "--repository", str(tmp_path / "r")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    command = [sys.executable, "-m", "dlenv", *words]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment)
    os.close(theirs)
    output, end = b"", time.monotonic() + 100
    while time.monotonic() < end:
        try:
            output += os.read(ours, 65_536)
        except OSError:  # the other side is closed
            break
    os.close(ours)
    assert process.wait(60) == 0
    text = output.decode()
    for part in ("epoch 20/20", "examples/s", "accuracy 5", "validation 5", "held-out accuracy", "┃", "0:00:00"):
        assert part in text
