"""No pickle anywhere: nothing of dlenv's own reads, writes or receives a format that runs code when it is read."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("cli", "models", "service") for path in (ROOT / folder).rglob("*.py"))

# Modules that unpickle, or run what they read.
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "copyreg",
}
# Functions that do so unless told otherwise: name -> the argument that must be there, with its value.
CALLS: dict[str, tuple[str, object] | None] = {
    "torch.load": ("weights_only", True),
    "torch.jit.load": None,
    "numpy.load": ("allow_pickle", False),
    "np.load": ("allow_pickle", False),
    "pandas.read_pickle": None,
    "pd.read_pickle": None,
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
    "eval": None,
    "exec": None,
}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(each.value).partition(".")[0] for each in node.args if isinstance(each, ast.Constant))


def dangerous(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name not in CALLS:
            continue
        needed = CALLS[name]
        given = {each.arg: each.value.value for each in node.keywords if isinstance(each.value, ast.Constant)}
        if needed is None or given.get(needed[0]) is not needed[1]:
            yield f"{name} in line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_unpickles(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert MODULES.isdisjoint(imported(tree))
    assert list(dangerous(tree)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import a, dill as b", "importlib.import_module('cloudpickle')",
        "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)", "yaml.load(f)", "eval(x)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(code: str) -> None:
    tree = ast.parse(code)
    assert not MODULES.isdisjoint(imported(tree)) or list(dangerous(tree))


def test_the_linter_forbids_it_too() -> None:
    """Ruff's S301 to S307: pickle, marshal, unsafe yaml, eval; nowhere but in tests is the group switched off."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not [rule for rule in lint["ignore"] if rule == "S" or rule.startswith(("S3", "S5"))]
    off = {
        glob
        for glob, rules in lint["per-file-ignores"].items()
        if any(rule == "S" or rule.startswith(("S3", "S5")) for rule in rules)
    }
    assert all(glob.startswith("tests/") for glob in off)


def test_nothing_that_ships_is_pickled() -> None:
    """Weights are safetensors; a pickle would begin with its protocol, a PyTorch archive with PK."""
    for path in (ROOT / "models").rglob("*"):
        assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy", ".joblib"}, path
