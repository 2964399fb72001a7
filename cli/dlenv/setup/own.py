"""The running dlenv itself, to be put into another environment: never that name from an index."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zipfile
from collections.abc import Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from dlenv.errors import SetupError
from dlenv.managers import uv
from dlenv.managers.source import Source
from dlenv.plan import Plan

_NAME = "dlenv"
# How a build back end writes the extra that a requirement belongs to: at the end of its marker.
_LOCKED = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]*)==[^ ;\\]+( ; [^\\]+)?")
_PYTORCH = re.compile(r"torch(vision)?|triton|cuda-.*|nvidia-(?!ml-py).*")
_EXTRA = re.compile(r"(\s+and)?\s+extra == '(?P<name>[^']+)'$")


def requirements(extras: Sequence[str]) -> list[str]:
    """What the running dlenv needs with these extras, as its own metadata says."""
    found = []
    for line in _distribution().requires or []:
        extra = _EXTRA.search(line)
        if extra is None or extra["name"] in extras:
            found.append(_EXTRA.sub("", line).rstrip("; "))
    return found


def constraints(plan: Plan) -> list[str]:
    """The versions that dlenv's serving and training half is tested with: ``name==version ; marker``.

    Without PyTorch and what comes with it, which the machine decides; none where a course has its own stack.
    """
    if plan.course:
        return []
    source = checkout()
    path = (
        source / "requirements" / "serve.txt" if source else Path(str(_distribution().locate_file("dlenv/locked.txt")))
    )
    locked = [match for line in path.read_text(encoding="utf-8").splitlines() if (match := _LOCKED.match(line))]
    return [match[0].rstrip() for match in locked if not _PYTORCH.fullmatch(match["name"])]


def identity(extras: Sequence[str]) -> tuple[str, ...]:
    """Which dlenv an environment with these extras holds, and what it needs: the same means, nothing to do."""
    if not extras:
        return ()
    return (str(checkout() or f"{_NAME}=={_distribution().version}"), *requirements(extras))


def checkout() -> Path | None:
    """The checkout that the running dlenv is installed from as editable, or None."""
    text = _distribution().read_text("direct_url.json")
    data = json.loads(text) if text else {}
    if not data.get("dir_info", {}).get("editable"):
        return None
    return Path(url2pathname(urlparse(data["url"]).path))


def wheel(folder: Path) -> Path:
    """A wheel of the running dlenv in ``folder``: built from its checkout, or packed again from its installed files."""
    if source := checkout():
        try:
            uv.run(["build", "--wheel", "--no-create-gitignore", "--out-dir", folder, source, "--quiet"])
        except uv.Failed as error:
            raise SetupError(f"no wheel of dlenv could be built from {source}: {error}") from None
        return max(folder.glob(f"{_NAME}-*.whl"), key=lambda path: path.stat().st_mtime)
    return _packed(_distribution(), folder)


def install(python: Path, source: Source, scratch: Path) -> None:
    """Put dlenv into the environment of ``python``, which has what it needs; raises ``SetupError``.

    The running one; from a folder of wheels the one in there, since a checkout can't be built without network.
    """
    words: list[str | Path]
    if source.folder:
        words = ["--no-index", "--find-links", source.folder, _NAME]
    elif editable := checkout():
        words = ["--editable", editable]
    else:
        words = [wheel(scratch)]
    try:
        uv.run(["pip", "install", "--quiet", "--no-deps", "--python", python, *words], source.environment)
    except uv.Failed as error:
        raise SetupError(f"dlenv itself could not be installed: {error}") from None


def _distribution() -> Distribution:
    return distribution(_NAME)


def _packed(dist: Distribution, folder: Path) -> Path:
    """The wheel that ``dist`` was installed from, put together again (Binary distribution format, PyPA)."""
    info = f"{_NAME}-{dist.version}.dist-info"
    target = folder / f"{_NAME}-{dist.version}-py3-none-any.whl"
    rows = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in dist.files or []:
            name = file.as_posix()
            written_at_install = name in {
                f"{info}/{leaf}" for leaf in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
            }
            if ".." in file.parts or "__pycache__" in file.parts or written_at_install:
                continue  # scripts, byte code and notes of the installer
            data = file.locate().read_bytes()  # type: ignore[attr-defined]  # a SimplePath that is a Path
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            archive.writestr(name, data)
            rows.append((name, f"sha256={digest}", len(data)))
        with archive.open(f"{info}/RECORD", "w") as binary:
            lines = [",".join(map(str, row)) for row in [*rows, (f"{info}/RECORD", "", "")]]
            binary.write(("\n".join(lines) + "\n").encode())
    return target
