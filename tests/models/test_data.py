from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dlenv.errors import DataError, UsageError
from dlenv_models.data import default_data_dir, labelled, load
from dlenv_models.data.dataset import Dataset, Split, hold_out, stratified


def write_images(root: Path, classes: dict[str, int], mode: str = "L") -> Path:
    random = np.random.RandomState(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            shape = (20, 24) if mode == "L" else (20, 24, 3)
            Image.fromarray(random.randint(0, 256, shape).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("name", "shape", "classes", "sizes"),
    [
        ("spiral", (2,), 3, (1800, 201, 999)),
        ("digits", (1, 8, 8), 10, (1295, 143, 359)),
        ("mnist5k", (1, 28, 28), 10, (3600, 400, 1000)),
    ],
)
def test_bundled(name: str, shape: tuple[int, ...], classes: int, sizes: tuple[int, ...]) -> None:
    dataset = load(name)
    assert dataset.row_shape == shape
    assert len(dataset.classes) == classes
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == sizes
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.inputs.dtype == (torch.uint8 if len(shape) == 3 else torch.float32)
        assert split.labels.unique().tolist() == list(range(classes))
    if dataset.is_images:
        assert int(dataset.train.inputs.max()) == 255
        assert int(dataset.train.inputs.min()) == 0
    info = dataset.info()
    assert (info.train, info.validation, info.test) == sizes


def test_the_seed_moves_the_validation_split_but_never_the_held_out_one() -> None:
    first, second = load("digits", seed=1), load("digits", seed=2)
    assert torch.equal(first.test.inputs, second.test.inputs)
    assert not torch.equal(first.validation.inputs, second.validation.inputs)
    assert torch.equal(load("digits", seed=1).validation.inputs, first.validation.inputs)


def test_no_row_is_in_two_splits() -> None:
    dataset = load("spiral")
    rows = torch.cat([dataset.train.inputs, dataset.validation.inputs, dataset.test.inputs])
    assert len(rows.unique(dim=0)) == 3000


def test_stratified_takes_the_same_part_of_each_class() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 3)
    kept, taken = stratified(labels, 0.2, seed=3)
    assert np.bincount(labels[torch.from_numpy(taken)].numpy()).tolist() == [20, 10, 1]
    assert sorted([*kept, *taken]) == list(range(153))


def test_preprocessing_normalises_the_training_split() -> None:
    dataset = load("mnist5k")
    preprocessing = dataset.preprocessing
    x = (dataset.train.inputs.double() * preprocessing.scale - preprocessing.mean[0]) / preprocessing.std[0]
    assert float(x.mean()) == pytest.approx(0, abs=1e-3)
    assert float(x.std()) == pytest.approx(1, abs=1e-3)


def test_preprocessing_of_a_constant_feature_does_not_divide_by_nothing() -> None:
    split, rest = hold_out(Split(torch.zeros(10, 2), torch.tensor([0, 1] * 5)), 0.2)
    dataset = Dataset("flat", ("a", "b"), split, split, rest, "", "")
    assert min(dataset.preprocessing.std) > 0


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(UsageError, match=r"no dataset 'spirl' .*spiral, digits, .*did you mean 'spiral'\?"):
        load("spirl")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_folder_of_class_folders(tmp_path: Path, mode: str, channels: int) -> None:
    root = write_images(tmp_path / "pets", {"cat": 10, "dog": 20}, mode)
    (root / "README.txt").write_text("not a class")
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / ".cache").mkdir()
    dataset = load(str(root), image_size=16)
    assert dataset.name == "pets"
    assert dataset.classes == ("cat", "dog")
    assert dataset.row_shape == (channels, 16, 16)
    assert torch.bincount(dataset.test.labels).tolist() == [2, 4]
    assert torch.bincount(dataset.validation.labels).tolist() == [1, 2]
    assert len(labelled(root, ("bird", "cat", "dog"), (1, 28, 28))) == 30


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 0 class folders"):
        load(str(tmp_path))
    with pytest.raises(DataError, match="not printable; rename it"):
        load(str(write_images(tmp_path / "odd", {"cat\n": 5, "dog": 5})))
    root = write_images(tmp_path / "pets", {"cat": 5, "dog": 4})
    with pytest.raises(DataError, match=r"dog holds 4 images .* at least 5"):
        load(str(root))
    (root / "dog" / "bad.png").write_bytes((root / "cat" / "0.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"bad.png: the image is truncated or damaged"):
        load(str(root))
    with pytest.raises(DataError, match="dog is no class of the model; its classes are bird, cat"):
        labelled(root, ("bird", "cat"), (1, 28, 28))


def test_data_dir_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLENV_DATA_DIR", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("DLENV_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "dlenv"
