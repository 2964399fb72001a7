from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlenv.errors import ModelInvalid
from dlenv_models.manifest import Manifest
from dlenv_models.repository import Entry, Repository

Publish = Callable[..., Entry]


@pytest.fixture
def good(root: Path, publish: Publish) -> dict[str, Any]:
    publish(Repository(root, shipped=None))
    value: dict[str, Any] = json.loads((root / "tiny" / "1" / "manifest.json").read_text())
    return value


def test_json_and_back(good: dict[str, Any]) -> None:
    manifest = Manifest.from_json(good)
    assert json.loads(json.dumps(manifest.to_json())) == good
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert next(iter(good)) == "schema"
    assert manifest.row_shape == (2,)


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Set the value at a path of keys; the last item is the value."""
    *keys, last, value = path

    def change(manifest: dict[str, Any]) -> None:
        at: Any = manifest
        for key in keys:
            at = at[key]
        at[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("schema", 2), "schema: 2 is unknown"),
        (_set("schema", True), "schema: True is unknown"),
        (_set("surprise", 1), "unknown key 'surprise'"),
        (lambda manifest: manifest.pop("classes"), "key 'classes' is missing"),
        (_set("name", "../../etc/passwd"), "'../../etc/passwd' is not a model name"),
        (_set("version", 0), "version: 0 is not between"),
        (_set("version", "1"), "version: '1' is not a whole number"),
        (_set("version", True), "version: True is not a whole number"),
        (_set("architecture", "name", "os.system"), "architecture.name: 'os.system'"),
        (_set("architecture", "name", ["mlp"]), "architecture.name"),
        (_set("architecture", "arguments", "hidden", [10**9]), r"hidden\[0\]: 1000000000 is not between"),
        (_set("architecture", "arguments", "hidden", [8192] * 8), "parameters; at most"),
        (_set("architecture", "arguments", "hidden", [4] * 1000), "a list of 1000 items"),
        (_set("architecture", "arguments", "hidden", "4"), "hidden: '4' is not a list"),
        (_set("architecture", "arguments", "dropout", 1), "dropout: 1 is not a finite number from 0 to 0.95"),
        (_set("architecture", "arguments", "dropout", 10**400), "dropout: "),
        (_set("architecture", "arguments", "activation", "gelu"), "activation: 'gelu' is not one of"),
        (_set("architecture", "arguments", "input_shape", [10**6]), r"input_shape\[0\]"),
        (_set("architecture", "arguments", "input_shape", [3, 4096, 4096]), "pixels; at most"),
        (_set("architecture", "arguments", "input_shape", [3, 5]), "is neither"),
        (_set("architecture", "arguments", "classes", 10**6), "classes: 1000000 is not between"),
        (_set("architecture", "arguments", "weights", "x"), "unknown key 'weights'"),
        (_set("classes", ["in"]), "classes: a list of 1 items, where 2 belong"),
        (_set("classes", ["in", "in"]), "twice"),
        (_set("classes", ["in", "\x1b[2J"]), r"classes\[1\]"),
        (_set("classes", ["in", "x" * 201]), r"classes\[1\]"),
        (_set("inputs", 0, "datatype", "BYTES"), r"inputs\[0\].datatype: 'BYTES' does not fit"),
        (_set("inputs", 0, "shape", [-1, 3]), r"inputs\[0\].shape"),
        (_set("outputs", []), "outputs: a list of 0 items"),
        (_set("outputs", 1, "name", "logits"), r"outputs\[1\].name"),
        (_set("preprocessing", "std", [1, 0]), r"preprocessing.std\[1\]: 0 is not"),
        (_set("preprocessing", "mean", [0]), "preprocessing.mean: a list of 1 items"),
        (_set("preprocessing", "scale", float("inf")), "preprocessing.scale"),
        (_set("preprocessing", "scale", float("nan")), "preprocessing.scale"),
        (_set("data", "train", -1), "data.train: -1"),
        (_set("data", "source", "a\nb"), "data.source"),
        (_set("metrics", "test_accuracy", 0.9), "test_accuracy: 0.9 is not what metrics.confusion says"),
        (_set("metrics", "confusion", [[2, 0]]), "metrics.confusion: a list of 1 items"),
        (_set("metrics", "confusion", [[2, 0], [0, 0]]), "counts 2 rows, but data.test is 4"),
        (_set("training", "options", {"a": {"b": 1}}), "training.options.a"),
        (_set("training", "options", {str(i): i for i in range(65)}), "training.options"),
        (_set("training", "seed", -1), "training.seed"),
        (_set("files", {}), "files: the key 'model.safetensors' is missing"),
        (_set("files", {"../../evil": {}}), "unknown key '../../evil'"),
        (_set("files", "model.safetensors", "sha256", "0" * 63), "sha256"),
        (_set("files", "model.safetensors", "bytes", 10**12), "bytes: 1000000000000 is not between"),
    ],
)
def test_hostile_values_are_named(good: dict[str, Any], change: Callable[[Any], None], reason: str) -> None:
    value = copy.deepcopy(good)
    change(value)
    with pytest.raises(ModelInvalid, match=reason):
        Manifest.from_json(value)


@pytest.mark.parametrize("value", [None, [], "manifest", 1])
def test_no_object_at_all(value: object) -> None:
    with pytest.raises(ModelInvalid, match="is not an object"):
        Manifest.from_json(value)
