from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from dlenv.errors import ModelInvalid, ModelNotFound, RepositoryError
from dlenv_models._layout import read_weights
from dlenv_models.manifest import WEIGHTS
from dlenv_models.repository import SHIPPED, Entry, Repository, default_root

Publish = Callable[..., Entry]


def test_what_is_published_loads_again(root: Path, publish: Publish) -> None:
    repository = Repository(root, shipped=None)
    entry = publish(repository)
    assert entry == repository.entry("tiny")
    loaded = repository.load("tiny")
    assert loaded.manifest == entry.manifest
    assert not loaded.module.training
    assert all(weights.dtype == torch.float32 for weights in loaded.module.parameters())
    assert {path.name for path in entry.path.iterdir()} == {"manifest.json", WEIGHTS}


def test_versions_count_up_and_the_newest_is_meant(root: Path, publish: Publish) -> None:
    repository = Repository(root, shipped=None)
    for seed in range(3):
        publish(repository, seed=seed)
    assert repository.versions("tiny") == [1, 2, 3]
    assert repository.entry("tiny").version == 3
    assert repository.load("tiny", 1).manifest.training.seed == 0


def test_user_root_lies_over_the_shipped_one(tmp_path: Path, root: Path, publish: Publish) -> None:
    shipped = tmp_path / "shipped"
    publish(Repository(shipped, shipped=None, create=True), "a")
    publish(Repository(shipped, shipped=None), "b")
    repository = Repository(root, shipped=shipped)
    assert publish(repository, "a").version == 2  # one more than in both roots
    assert [(e.name, e.version, e.shipped) for e in repository.entries()] == [
        ("a", 1, True),
        ("a", 2, False),
        ("b", 1, True),
    ]
    with pytest.raises(RepositoryError, match="ships with dlenv"):
        repository.remove("b")
    assert [entry.version for entry in repository.remove("a")] == [2]
    assert repository.versions("a") == [1]


def test_user_version_hides_the_same_shipped_version(tmp_path: Path, root: Path, publish: Publish) -> None:
    shipped = tmp_path / "shipped"
    publish(Repository(shipped, shipped=None, create=True), seed=1)
    publish(Repository(root, shipped=None), seed=2)
    assert Repository(root, shipped=shipped).load("tiny").manifest.training.seed == 2


def test_remove_takes_one_version_and_also_damaged_ones(root: Path, publish: Publish) -> None:
    repository = Repository(root, shipped=None)
    publish(repository)
    (publish(repository).path / "manifest.json").write_text("{")
    repository.remove("tiny", 2)
    assert repository.versions("tiny") == [1]
    repository.remove("tiny")
    assert list(root.iterdir()) == []
    with pytest.raises(ModelNotFound, match="no model 'tiny'"):
        repository.remove("tiny")


def test_not_found_says_what_there_is(root: Path, publish: Publish) -> None:
    repository = Repository(root, shipped=None)
    with pytest.raises(ModelNotFound, match="empty; `dlenv train` makes a model"):
        repository.entry("tiny")
    publish(repository)
    with pytest.raises(ModelNotFound, match=r"no model 'tinny'; there is tiny; did you mean 'tiny'\?"):
        repository.entry("tinny")
    with pytest.raises(ModelNotFound, match="has no version 7; there is 1"):
        repository.entry("tiny", 7)
    with pytest.raises(ModelNotFound):
        repository.entry("../repository/tiny")


# Each damages the published model at that path; the reason must name what is wrong.
def _no_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def _half_a_manifest(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text[: len(text) // 2])


def _deep_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("[" * 200_000)


def _other_name(path: Path) -> None:
    _edit(path, lambda manifest: manifest.update(name="other"))


def _unknown_architecture(path: Path) -> None:
    _edit(path, lambda manifest: manifest["architecture"].update(name="transformer"))


def _linked_manifest(path: Path) -> None:
    outside = path.parents[2] / "outside.json"
    (path / "manifest.json").rename(outside)
    (path / "manifest.json").symlink_to(outside)


def _linked_version(path: Path) -> None:
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def _pipe(path: Path) -> None:
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")


def _no_weights(path: Path) -> None:
    (path / WEIGHTS).unlink()


def _cut_off_weights(path: Path) -> None:
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:-1])


def _longer_weights(path: Path) -> None:
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes() + b"\0")


def _flipped_bit(path: Path) -> None:
    data = bytearray((path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (path / WEIGHTS).write_bytes(data)


def _linked_weights(path: Path) -> None:
    outside = path.parents[2] / "outside.safetensors"
    (path / WEIGHTS).rename(outside)
    (path / WEIGHTS).symlink_to(outside)


def _pickled_weights(path: Path) -> None:
    _replace_weights(path, pickle.dumps({"weights": [1.0]}))


def _renamed_weights(path: Path) -> None:
    tensors = load((path / WEIGHTS).read_bytes())
    tensors["extra"] = tensors.pop("output.bias")
    _replace_weights(path, save(tensors))


def _other_shape(path: Path) -> None:
    _replace_weights(path, save(load((path / WEIGHTS).read_bytes()) | {"output.bias": torch.zeros(3)}))


def _other_dtype(path: Path) -> None:
    _replace_weights(path, save(load((path / WEIGHTS).read_bytes()) | {"output.bias": torch.zeros(2).half()}))


def _not_finite(path: Path) -> None:
    _replace_weights(path, save(load((path / WEIGHTS).read_bytes()) | {"output.bias": torch.tensor([0, torch.nan])}))


def _unknown_dtype(path: Path) -> None:
    _replace_weights(path, _by_hand({"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}, bytes(2)))


def _unknown_dtype_of_a_byte(path: Path) -> None:
    _replace_weights(path, _by_hand({"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}, bytes(2)))


def _endless_but_empty(path: Path) -> None:
    _replace_weights(path, _by_hand({"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}, b""))


def _control_sequence(path: Path) -> None:
    _replace_weights(path, _by_hand({"dtype": "\x1b[2J", "shape": [2], "data_offsets": [0, 2]}, bytes(2)))


def _by_hand(tensor: dict[str, Any], data: bytes) -> bytes:
    """A safetensors file of one tensor that the library would not write: length of the header, header, data."""
    header = json.dumps({"output.bias": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + data


def _edit(path: Path, change: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def _replace_weights(path: Path, data: bytes) -> None:
    """As an attacker would: with the right size and hash in the manifest."""
    (path / WEIGHTS).write_bytes(data)
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    _edit(path, lambda manifest: manifest["files"].update({WEIGHTS: facts}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_no_manifest, "manifest.json is missing"),
        (_half_a_manifest, "not JSON"),
        (_deep_manifest, "not JSON"),
        (_other_name, "name is 'other', but the folder says 'tiny'"),
        (_unknown_architecture, "architecture.name: 'transformer' is not one of linear, mlp, lenet, "),
        (_linked_manifest, "symbolic link"),
        (_linked_version, "symbolic link"),
        pytest.param(_pipe, "not a regular file", marks=pytest.mark.skipif(os.name != "posix", reason="no pipes")),
    ],
)
def test_refused_when_listed_while_the_others_stay(root: Path, publish: Publish, damage: Any, reason: str) -> None:
    repository = Repository(root, shipped=None)
    publish(repository, "good")
    damage(publish(repository, "tiny").path)
    (entry,) = (entry for entry in repository.entries() if entry.name == "tiny")
    assert entry.manifest is None
    assert reason in str(entry.problem)
    assert repository.names() == ["good"]
    with pytest.raises(ModelInvalid, match="tiny/1 is refused"):
        repository.load("tiny")
    assert repository.load("good").manifest.name == "good"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_no_weights, "is missing"),
        (_cut_off_weights, "cut off or changed"),
        (_longer_weights, "cut off or changed"),
        (_flipped_bit, "SHA-256"),
        (_linked_weights, "symbolic link"),
        (_pickled_weights, "not in safetensors format"),
        (_renamed_weights, "don't share 'extra'"),
        (_other_shape, r"'output.bias' are torch.float32 \[3\]"),
        (_other_dtype, r"'output.bias' are torch.float16 \[2\]"),
        (_not_finite, "not finite"),
        (_unknown_dtype, r"refused: the weights hold numbers of the type 'F4', which PyTorch can't load"),
        (_unknown_dtype_of_a_byte, "the type 'F8_E8M0'"),
        (_endless_but_empty, "a size beyond 63 bits, which PyTorch can't load"),
        (_control_sequence, r"not in safetensors format \(.*\\x1b\[2J"),
    ],
)
def test_refused_when_loaded_while_the_others_stay(root: Path, publish: Publish, damage: Any, reason: str) -> None:
    repository = Repository(root, shipped=None)
    publish(repository, "good")
    damage(publish(repository, "tiny").path)
    with pytest.raises(ModelInvalid, match=reason):
        repository.load("tiny")
    assert repository.load("good").manifest.name == "good"


def test_an_older_good_version_stands_in_for_a_damaged_one(root: Path, publish: Publish) -> None:
    repository = Repository(root, shipped=None)
    publish(repository)
    _half_a_manifest(publish(repository).path)
    assert repository.entry("tiny").version == 1
    with pytest.raises(ModelInvalid, match="tiny/2"):
        repository.entry("tiny", 2)
    assert publish(repository).version == 3


def test_a_linked_model_folder_is_refused_and_never_written_through(
    tmp_path: Path, root: Path, publish: Publish
) -> None:
    outside = tmp_path / "outside"
    publish(Repository(outside, shipped=None, create=True))
    (root / "tiny").symlink_to(outside / "tiny")
    publish(Repository(root, shipped=None), "good")
    repository = Repository(root, shipped=None)
    (entry,) = (entry for entry in repository.entries() if entry.name == "tiny")
    assert "symbolic link" in str(entry.problem)
    with pytest.raises(RepositoryError, match="symbolic link"):
        publish(repository)
    repository.remove("tiny")
    assert (outside / "tiny" / "1" / "manifest.json").is_file()


@pytest.mark.skipif(os.name != "posix", reason="Windows can't open a file by its folder's descriptor")
@pytest.mark.parametrize("level", ["name", "version", "file"])
def test_a_link_put_there_after_the_look_at_it_leads_nowhere(
    tmp_path: Path, root: Path, publish: Publish, level: str
) -> None:
    entry = publish(Repository(root, shipped=None))
    assert entry.manifest is not None
    place = {"name": entry.path.parent, "version": entry.path, "file": entry.path / WEIGHTS}[level]
    outside = tmp_path / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    with pytest.raises(ValueError, match=r"can't be read|symbolic link"):
        read_weights(entry, entry.manifest.files[WEIGHTS])


@pytest.mark.skipif(os.name != "posix", reason="Windows has no links that everybody may make")
def test_a_link_that_comes_and_goes_is_never_followed(tmp_path: Path, root: Path, publish: Publish) -> None:
    """The folder of a version is now the model, now a link to another one of its name outside of the root."""
    other = publish(Repository(tmp_path / "outside", shipped=None, create=True)).path
    _edit(other, lambda manifest: manifest["training"].update(command="stolen"))
    place = publish(Repository(root, shipped=None)).path
    aside, link = place.with_name("aside"), place.with_name("link")
    link.symlink_to(other)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            place.rename(aside)
            link.rename(place)
            place.rename(link)
            aside.rename(place)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(2000):
            with contextlib.suppress(RepositoryError):  # between two renames there is no model
                for entry in Repository(root, shipped=None).entries():
                    seen.add(entry.problem if entry.manifest is None else entry.manifest.training.command)
    finally:
        over.set()
        thread.join()
    assert "stolen" not in seen
    assert len(seen) > 1, seen  # both were met


@pytest.mark.parametrize("name", ["", ".", "..", "../evil", "a/b", "a\\b", "a..b", ".hidden", "a\n", "x" * 65, "ends."])
def test_hostile_names_are_not_published(root: Path, publish: Publish, name: str) -> None:
    with pytest.raises(ModelInvalid, match="is not a model name"):
        publish(Repository(root, shipped=None), name)
    assert list(root.iterdir()) == []


def test_a_folder_with_a_hostile_name_is_refused(root: Path, publish: Publish) -> None:
    repository = Repository(root, shipped=None)
    publish(repository).path.parent.rename(root / "bad name")
    (entry,) = repository.entries()
    assert "'bad name' is not a model name" in str(entry.problem)


def test_a_module_of_another_architecture_is_not_published(root: Path, publish: Publish) -> None:
    repository = Repository(root, shipped=None)
    manifest = publish(repository).manifest
    assert manifest is not None
    with pytest.raises(ModelInvalid, match="can't be published"):
        repository.publish(
            "tiny",
            torch.nn.Linear(2, 2),
            architecture=manifest.architecture,
            classes=manifest.classes,
            preprocessing=manifest.preprocessing,
            data=manifest.data,
            metrics=manifest.metrics,
            training=manifest.training,
        )
    assert repository.versions("tiny") == [1]


def test_leftovers_and_strange_things_are_passed_over(root: Path, publish: Publish) -> None:
    repository = Repository(root, shipped=None)
    publish(repository)
    (root / ".publish-dead" / "version").mkdir(parents=True)
    (root / "notes.txt").write_text("hello")
    (root / "tiny" / "latest").mkdir()
    (root / "tiny" / "01").mkdir()
    assert [(entry.name, entry.version) for entry in repository.entries()] == [("tiny", 1)]


def test_racing_publishers_all_get_their_own_version(root: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dlenv_models.repository import Repository;"
        "from conftest import publish_tiny;"
        "sys.stdin.read(1);"
        "print([publish_tiny(Repository(Path(sys.argv[1]), shipped=None)).version for _ in range(5)])"
    )
    command = [sys.executable, "-c", script, str(root)]
    cwd = Path(__file__).parent  # where conftest lies
    racers = [
        subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outputs = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go")
        racer.stdin.flush()
    for racer in racers:
        output, _ = racer.communicate(timeout=120)
        assert racer.returncode == 0
        outputs += json.loads(output)
    assert sorted(outputs) == list(range(1, 16))
    repository = Repository(root, shipped=None)
    assert repository.versions("tiny") == list(range(1, 16))
    assert [path.name for path in root.iterdir()] == ["tiny"]  # nothing half-written is left


def test_a_named_root_has_to_be_a_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"there is no model repository at .*missing"):
        Repository(tmp_path / "missing")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RepositoryError, match="is a file, not a model repository"):
        Repository(file)
    other = tmp_path / "other"
    (other / "photos").mkdir(parents=True)
    with pytest.raises(RepositoryError, match="is not a model repository: it holds other things"):
        Repository(other)
    with pytest.raises(RepositoryError, match="is not a model repository"):
        Repository(other, create=True)
    assert Repository(tmp_path / "new", shipped=None, create=True).entries() == []


def test_the_environment_names_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLENV_REPOSITORY", str(tmp_path / "missing"))
    with pytest.raises(RepositoryError, match="missing"):
        Repository()


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is Linux's")
def test_the_default_root_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLENV_REPOSITORY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_root() == tmp_path / "dlenv" / "models"
    assert Repository(shipped=None).entries() == []
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_root() == Path.home() / ".local" / "share" / "dlenv" / "models"


def test_an_unwritable_root_is_found_before_publishing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    repository = Repository(tmp_path / "new", shipped=None, create=True)
    repository.user_root = tmp_path / "file" / "new"
    with pytest.raises(RepositoryError, match="can't be written"):
        repository.check_writable()


def test_listing_imports_no_torch() -> None:
    script = (
        "import sys; from dlenv_models.repository import Repository; Repository().entries();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'numpy', 'ray')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_loading_a_shipped_model_imports_no_torchvision() -> None:
    script = (
        "import sys; from dlenv_models.repository import Repository; r = Repository(user_root=None);"
        "[r.load(name) for name in ('mnist-lenet', 'spiral-mlp')]; sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_shipped_models_are_good_and_small() -> None:
    entries = [entry for entry in Repository().entries() if entry.shipped]
    assert {entry.name for entry in entries} >= {"mnist-lenet", "mnist-mlp", "spiral-linear", "spiral-mlp"}
    for entry in entries:
        assert entry.problem is None
        assert _size(entry) <= 1_500_000
        manifest = (entry.path / "manifest.json").read_text()
        assert str(Path.home()) not in manifest
        assert '"command": "dlenv train ' in manifest
    assert {path.name for path in SHIPPED.iterdir() if path.is_file()} == {"README.md"}


def _size(entry: Entry) -> int:
    return sum(path.stat().st_size for path in entry.path.iterdir())
