"""The model repository: ``<root>/<name>/<version>/`` with ``manifest.json`` and ``model.safetensors``.

Two roots lie over each other: the user's, and the read-only one that ships with dlenv. They are merged by name and
version; where both hold one, the user's wins. Nothing here is ever unpickled, and a damaged or hostile model is
reported with its reason while all others stay usable. Listing reads manifests only and imports no PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dlenv.errors import ModelInvalid, ModelNotFound, RepositoryError
from dlenv_models._check import did_you_mean, show
from dlenv_models._layout import MANIFEST, Entry, check_root, highest_version, read_weights, scan
from dlenv_models.manifest import (
    MAX_VERSION,
    WEIGHTS,
    Architecture,
    DataInfo,
    FileInfo,
    Manifest,
    Metrics,
    Preprocessing,
    Training,
    model_name,
    tensor_specs,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SHIPPED", "Entry", "LoadedModel", "Repository", "default_root"]

SHIPPED = Path(__file__).parent / "trained"


@dataclass(frozen=True)
class LoadedModel:
    """A module in eval mode, float32 on the CPU, without gradients, and its manifest."""

    module: nn.Module
    manifest: Manifest


def default_root() -> Path:
    """Where a user's models lie unless told otherwise: the platform's folder for a user's application data."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:  # XDG Base Directory Specification: a relative value must be ignored
        given = Path(os.environ.get("XDG_DATA_HOME", ""))
        base = given if given.is_absolute() else Path.home() / ".local" / "share"
    return base / "dlenv" / "models"


class Repository:
    """The models in ``user_root`` over those in ``shipped``.

    ``user_root`` None means ``$DLENV_REPOSITORY``, or else :func:`default_root`, which need not exist. A root that
    somebody named has to be a repository; with ``create`` it may be missing, and publishing makes it.

    Raises ``RepositoryError`` where the root is missing, a file, or a folder that holds something else.
    """

    def __init__(self, user_root: Path | None = None, shipped: Path | None = SHIPPED, *, create: bool = False) -> None:
        named = user_root if user_root is not None else Path(os.environ.get("DLENV_REPOSITORY", ""))
        explicit = user_root is not None or bool(os.environ.get("DLENV_REPOSITORY"))
        self.user_root = named.expanduser().absolute() if explicit else default_root()
        self.shipped = shipped
        if (explicit or self.user_root.exists()) and not (create and not self.user_root.exists()):
            check_root(self.user_root)

    def entries(self) -> list[Entry]:
        """Every model version, sorted by name and version; refused ones carry their ``problem``."""
        found: dict[tuple[str, int], Entry] = {}
        for root in self._roots():
            found.update({(entry.name, entry.version): entry for entry in scan(root, root == self.shipped)})
        return [found[key] for key in sorted(found)]

    def names(self) -> list[str]:
        """The names of the models that have at least one good version, sorted."""
        return sorted({entry.name for entry in self.entries() if entry.problem is None})

    def versions(self, name: str) -> list[int]:
        """The good versions of ``name``, ascending; empty where there is none."""
        return [entry.version for entry in self.entries() if entry.name == name and entry.problem is None]

    def entry(self, name: str, version: int | None = None) -> Entry:
        """That version of ``name``, or its newest good one.

        Raises ``ModelNotFound`` where it isn't there, ``ModelInvalid`` with the reason where it is refused.
        """
        entries = self.entries()
        mine = [entry for entry in entries if entry.name == name and version in (None, entry.version)]
        good = [entry for entry in mine if entry.problem is None]
        if good:
            return good[-1]
        if mine:
            raise ModelInvalid(f"the model {name}/{mine[-1].version} is refused: {mine[-1].problem}")
        if versions := [str(entry.version) for entry in entries if entry.name == name and entry.version]:
            raise ModelNotFound(f"the model {name} has no version {version}; there is {', '.join(versions)}")
        names = sorted({entry.name for entry in entries if entry.problem is None})
        there = f"there is {', '.join(names)}" if names else "the repository is empty; `dlenv train` makes a model"
        raise ModelNotFound(f"there is no model {show(name)}; {there}{did_you_mean(name, names)}")

    def load(self, name: str, version: int | None = None) -> LoadedModel:
        """The model, its weights checked against the manifest's size and SHA-256 before anything reads them.

        Raises what :meth:`entry` raises, and ``ModelInvalid`` where the weights don't belong to the architecture.
        """
        from dlenv_models import weights

        entry = self.entry(name, version)
        assert entry.manifest is not None
        try:
            data = read_weights(entry, entry.manifest.files[WEIGHTS])
            module = weights.restore(entry.manifest.architecture, data)
        except ValueError as error:
            raise ModelInvalid(f"the model {name}/{entry.version} is refused: {error}") from None
        return LoadedModel(module, entry.manifest)

    def publish(
        self,
        name: str,
        module: nn.Module,
        *,
        architecture: Architecture,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        data: DataInfo,
        metrics: Metrics,
        training: Training,
    ) -> Entry:
        """Add ``module`` as the next version of ``name``: one more than the highest in both roots.

        The folder appears at once and whole, or not at all, however many processes publish at the same time.
        Raises ``ModelInvalid`` where module and description don't fit together, ``RepositoryError`` where the
        repository can't be written.
        """
        from dlenv_models import weights

        try:
            model_name(name)
            content = weights.dump(architecture, module)
        except ValueError as error:
            raise ModelInvalid(f"the model can't be published: {error}") from None
        inputs, outputs = tensor_specs(architecture)
        manifest = Manifest(
            name=name,
            version=1,
            architecture=architecture,
            inputs=inputs,
            outputs=outputs,
            classes=tuple(classes),
            preprocessing=preprocessing,
            data=data,
            metrics=metrics,
            training=training,
            files={WEIGHTS: FileInfo(hashlib.sha256(content).hexdigest(), len(content))},
        )
        Manifest.from_json(manifest.to_json())  # what would be refused when read is not written
        self.check_writable()
        try:
            # In the root itself, so that the last step is a rename within one file system.
            with tempfile.TemporaryDirectory(prefix=".publish-", dir=self.user_root) as scratch:
                return self._publish(manifest, content, Path(scratch) / "version")
        except OSError as error:
            raise RepositoryError(f"the model can't be written to {self.user_root}: {error.strerror}") from None

    def check_writable(self) -> None:
        """Raise ``RepositoryError`` unless a model could be published now; makes the root where it is missing."""
        try:
            self.user_root.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryDirectory(prefix=".publish-", dir=self.user_root).cleanup()
        except OSError as error:
            reason = error.strerror
            raise RepositoryError(
                f"the model repository {self.user_root} can't be written ({reason}); choose another with --repository"
            ) from None

    def remove(self, name: str, version: int | None = None) -> list[Entry]:
        """Delete that version of ``name``, or every version in the user's root; returns what is gone.

        Damaged versions can be removed too. Raises ``ModelNotFound``, or ``RepositoryError`` where only the
        read-only models that ship with dlenv match.
        """
        matching = [entry for entry in self.entries() if entry.name == name and version in (None, entry.version)]
        mine = [entry for entry in matching if not entry.shipped]
        if not mine:
            if matching:
                raise RepositoryError(
                    f"the model {name} ships with dlenv and can't be removed; a newer version hides it"
                )
            self.entry(name, version)  # says what there is instead
        for entry in mine:
            try:
                if entry.path.is_symlink():
                    entry.path.unlink()
                    continue
                # Renamed first, so that nobody ever sees half a model.
                doomed = Path(tempfile.mkdtemp(prefix=".remove-", dir=self.user_root))
                entry.path.rename(doomed / "version")
                shutil.rmtree(doomed)
                if not any(entry.path.parent.iterdir()):
                    entry.path.parent.rmdir()
            except OSError as error:
                raise RepositoryError(f"{entry.path} can't be removed: {error.strerror}") from None
        return mine

    def _publish(self, manifest: Manifest, content: bytes, folder: Path) -> Entry:
        if (self.user_root / manifest.name).is_symlink():
            raise RepositoryError(
                f"{self.user_root / manifest.name} is a symbolic link; remove it, or use another name"
            )
        folder.mkdir()
        _write(folder / WEIGHTS, content)
        while True:
            version = 1 + max(highest_version(root, manifest.name) for root in self._roots())
            if version > MAX_VERSION:
                raise RepositoryError(
                    f"the model {manifest.name} has version {MAX_VERSION}, the last; use another name"
                )
            manifest = replace(manifest, version=version)
            _write(folder / MANIFEST, json.dumps(manifest.to_json(), indent=1).encode() + b"\n")
            _sync(folder)
            target = self.user_root / manifest.name / str(version)
            target.parent.mkdir(exist_ok=True)
            try:
                folder.rename(target)
            except OSError:
                if target.exists() or not target.parent.exists():
                    continue  # somebody else published this version, or removed the last one, in the meantime
                raise
            _sync(target.parent)
            return Entry(manifest.name, version, target, False, manifest, None)

    def _roots(self) -> list[Path]:
        return [self.user_root] if self.shipped is None else [self.shipped, self.user_root]


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut; Windows has no such call for folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
