from __future__ import annotations

from dataclasses import replace

import pytest

from dlenv_models.card import card
from dlenv_models.manifest import Manifest
from dlenv_models.repository import Repository


def manifest_of(name: str) -> Manifest:
    manifest = Repository().entry(name).manifest
    assert manifest is not None
    return manifest


def table(text: str, title: str) -> list[list[str]]:
    """The lines of the first table whose first column has that title, without title and rule."""
    lines = text.split(f"| {title} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [line.strip("| ").split(" | ") for line in lines]


def test_a_card_says_what_the_manifest_says() -> None:
    manifest = manifest_of("mnist-lenet")
    text = card(manifest)
    assert text.startswith("# mnist-lenet, version 1\n")
    assert "Accuracy **98.90%**" in text
    assert "dlenv train lenet --data mnist5k --name mnist-lenet" in text
    assert manifest.files["model.safetensors"].sha256 in text
    rows = table(text, "class")
    assert [row[0] for row in rows] == list(manifest.classes)
    zero = manifest.metrics.confusion[0]
    called = sum(row[0] for row in manifest.metrics.confusion)
    assert rows[0][1:] == ["100", f"{zero[0] / called:.2%}", f"{zero[0] / 100:.2%}"]


@pytest.mark.parametrize("name", ["spiral-linear", "spiral-mlp", "mnist-mlp", "mnist-lenet"])
def test_every_table_is_one(name: str) -> None:
    for block in card(manifest_of(name)).split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            assert len({line.count(" | ") for line in lines if not line.startswith("| ---")}) == 1
            assert lines[1].startswith("| ---")


def test_what_a_stranger_wrote_can_not_become_markup() -> None:
    manifest = manifest_of("spiral-linear")
    evil = "<script>alert(1)</script> | [click](javascript:1) `x` ![i](http://evil/)"
    hostile = replace(
        manifest,
        classes=(evil, "b", "c"),
        data=replace(manifest.data, source=evil),
        training=replace(manifest.training, command="echo ``` ```` > x"),
    )
    text = card(hostile)
    assert "<script>" not in text
    assert "](javascript" not in text
    assert len(table(text, "class")) == 3
    assert "`````\necho ``` ```` > x\n`````" in text


def test_many_classes_get_a_list_of_confusions() -> None:
    manifest = manifest_of("spiral-linear")
    names = tuple(f"class {i}" for i in range(30))
    confusion = tuple(tuple(5 if i == j else int((i, j) == (3, 4)) for j in range(30)) for i in range(30))
    arguments = {**manifest.architecture.arguments, "classes": 30}
    many = replace(
        manifest,
        classes=names,
        architecture=replace(manifest.architecture, arguments=arguments),
        metrics=replace(manifest.metrics, confusion=confusion),
    )
    assert "| class 3 | class 4 | 1 |" in card(many)
