"""Datasets that are downloaded on first use: MNIST, Fashion-MNIST and CIFAR-10, read by torchvision.

dlenv downloads the files itself, because torchvision knows one address for two of the three, leaves half a file
behind, and does not say what it tried. The folder has torchvision's layout, so that files from there are used.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dlenv.errors import DataError
from dlenv_models.data.dataset import Dataset, Split, with_validation
from dlenv_models.data.download import File, fetch


@dataclass(frozen=True)
class Published:
    """A published dataset: torchvision's class for it, its files, and base addresses that have them."""

    name: str
    kind: str
    folder: str
    files: Sequence[File]
    mirrors: Sequence[str]
    source: str
    license: str


# Files and MD5 sums: torchvision.datasets.mnist and .cifar. The second mirrors are those that Keras downloads from.
PUBLISHED = {
    "mnist": Published(
        name="mnist",
        kind="MNIST",
        folder="MNIST/raw",
        files=(
            File("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            File("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            File("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            File("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist"),
        source="Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits, "
        "http://yann.lecun.com/exdb/mnist/",
        license="CC BY-SA 3.0 (as Keras and others state it; the authors' page names no licence)",
    ),
    "fashion-mnist": Published(
        name="fashion-mnist",
        kind="FashionMNIST",
        folder="FashionMNIST/raw",
        files=(
            File("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            File("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            File("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            File("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
        ),
        source="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist",
        license="MIT",
    ),
    "cifar10": Published(
        name="cifar10",
        kind="CIFAR10",
        folder=".",
        files=(File("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),),
        mirrors=("https://www.cs.toronto.edu/~kriz",),
        source="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009), "
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        license="not stated by its author",
    ),
}


def published(
    dataset: Published,
    seed: int,
    data_dir: Path,
    mirror: str | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """The dataset from ``data_dir``, downloaded where it is missing (from ``mirror`` only, if one is given).

    Inputs are uint8 (N, 1, 28, 28) or (N, 3, 32, 32); the publisher's test set is held out.

    Raises ``Unreachable`` where no mirror gives a file, ``DataError`` where the files can't be read or written.
    """
    from torchvision import datasets

    kind = getattr(datasets, dataset.kind)
    mirrors = (mirror,) if mirror else dataset.mirrors
    try:
        read = _opened(kind, data_dir)
        if read is None:
            for file in dataset.files:
                _unpack(fetch(file, mirrors, data_dir / dataset.folder, log))
            read = _opened(kind, data_dir)
    except (OSError, ValueError, tarfile.TarError, EOFError) as error:
        raise DataError(f"the files of {dataset.name} in {data_dir} can't be used: {error}") from None
    if read is None:
        raise DataError(f"the files of {dataset.name} in {data_dir} are damaged; delete them and try again")
    train, test = read
    return with_validation(
        name=dataset.name,
        classes=tuple(name.partition(" - ")[0] for name in train.classes),  # "7 - seven" of MNIST becomes "7"
        train=_split(train),
        test=_split(test),
        source=dataset.source,
        license_=dataset.license,
        seed=seed,
    )


def _opened(kind: Any, root: Path) -> tuple[Any, Any] | None:
    try:
        return kind(root, train=True), kind(root, train=False)
    except RuntimeError:  # torchvision: "Dataset not found or corrupted"
        return None


def _unpack(archive: Path) -> None:
    """Unpack beside the archive; each file appears whole. A tar may write nothing outside (PEP 706)."""
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=archive.parent) as name:
        scratch = Path(name)
        if archive.name.endswith(".tar.gz"):
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
        else:
            with gzip.open(archive) as packed, (scratch / archive.stem).open("wb") as output:
                shutil.copyfileobj(packed, output)
        for path in scratch.iterdir():
            target = archive.parent / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)


def _split(read: Any) -> Split:
    inputs = torch.as_tensor(read.data)
    inputs = inputs.unsqueeze(1) if inputs.ndim == 3 else inputs.permute(0, 3, 1, 2).contiguous()
    return Split(inputs, torch.as_tensor(read.targets, dtype=torch.int64))
