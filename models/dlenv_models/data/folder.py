"""A folder of your own images: one folder for each class, its name the class, any PNG, JPEG or WebP files in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dlenv.errors import DataError, RequestError
from dlenv_models.architectures import MAX_CLASSES
from dlenv_models.data.dataset import Dataset, Split, hold_out, with_validation
from dlenv_models.images import EXTENSIONS, prepare

MIN_PER_CLASS = 5  # so that training, validation and test hold each class


def folder(root: Path, seed: int, size: int = 32) -> Dataset:
    """The images under ``root/<class>/``, scaled to ``size`` x ``size``; a fifth of each class is held out.

    Inputs are uint8 (N, 1, size, size) where every picture is grey, else (N, 3, size, size).

    Raises ``DataError`` naming the folder or file that can't be used.
    """
    files = {path.name: images_in(path) for path in sorted(_folders(root))}
    name = root.resolve().name or "images"
    for word in (name, *files):
        if not word.isprintable() or len(word) > 100:
            raise DataError(
                f"the folder name {word!r} is long or not printable; rename it: it becomes part of the model"
            )
    if not 2 <= len(files) <= MAX_CLASSES:
        raise DataError(f"{root} holds {len(files)} class folders; it takes 2 to {MAX_CLASSES}, one for each class")
    for label, paths in files.items():
        if len(paths) < MIN_PER_CLASS:
            kinds = ", ".join(EXTENSIONS)
            raise DataError(
                f"{root / label} holds {len(paths)} images ({kinds}); each class takes at least {MIN_PER_CLASS}"
            )
    whole = _read(list(files.values()), (3, size, size))
    if bool((whole.inputs == whole.inputs[:, :1]).all()):
        whole = Split(whole.inputs[:, :1].contiguous(), whole.labels)
    train, test = hold_out(whole, 0.2)
    return with_validation(
        name=name,
        classes=tuple(files),
        train=train,
        test=test,
        source="a folder of images",
        license_="not stated",
        seed=seed,
    )


def labelled(root: Path, classes: Sequence[str], row_shape: tuple[int, ...]) -> Split:
    """Every image under ``root/<class>/`` as a model with these classes and this row shape takes it.

    Raises ``DataError`` where a folder is no class of the model, or none holds an image.
    """
    found = {path.name: images_in(path) for path in _folders(root)}
    if unknown := sorted(found.keys() - set(classes)):
        raise DataError(f"{root / unknown[0]} is no class of the model; its classes are {', '.join(classes[:20])}")
    if not any(found.values()):
        raise DataError(f"{root} holds no images in class folders named {', '.join(classes[:20])}")
    return _read([found.get(name, []) for name in classes], row_shape)


def images_in(path: Path) -> list[Path]:
    """The image files right in the folder ``path``, sorted, by their extension."""
    return sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS and file.is_file())


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"the data folder {root} can't be read: {error.strerror}") from None


def _read(files: Sequence[Sequence[Path]], row_shape: tuple[int, ...]) -> Split:
    images, labels = [], []
    for label, paths in enumerate(files):
        for path in paths:
            try:
                images.append(prepare(path.read_bytes(), *row_shape))
            except OSError as error:
                raise DataError(f"{path} can't be read: {error.strerror}") from None
            except RequestError as error:
                raise DataError(f"{path}: {error}") from None
            labels.append(label)
    return Split(torch.from_numpy(np.stack(images)), torch.tensor(labels))
