"""``README.txt`` in a folder that ``dlenv setup --download`` filled: what it is, and how to use it."""

from __future__ import annotations

from pathlib import Path

from dlenv.setup.offline import NAME, PYTHON, Contents
from dlenv.setup.targets import describe

_TEXT = """\
Everything for an environment with Python {python}, torch {torch} and {count} packages in all, to be installed without
network. Made for {machine}, by dlenv {dlenv} on {created}.
{files} files, {size:,.0f} MB; {name} lists them with their hashes.

On that machine, in this folder, with Python {pythons}:

    {start} -m venv dlenv-start
    {programs}python -m pip install --no-index --find-links wheels dlenv
    {programs}dlenv setup --offline . --env PLACE-OF-THE-ENVIRONMENT
"""
_OWN_PYTHON = """
Where there is no such Python, start with the one in here:

    tar -xzf {archive}
    {unpacked} -m venv dlenv-start

and go on as above.
"""


def write(folder: Path, contents: Contents) -> None:
    """Write the file, whole or not at all."""
    scratch = folder / "README.tmp"
    scratch.write_text(text(contents), encoding="utf-8")
    scratch.replace(folder / "README.txt")


def text(contents: Contents) -> str:
    """The file's text."""
    record = contents.record
    windows = record.machine.os == "windows"
    result = _TEXT.format(
        python=record.plan.python,
        pythons=" or ".join(contents.pythons),
        torch=f"{record.torch.torch} ({record.torch.build})",
        count=len(record.packages),
        machine=describe(record.machine),
        dlenv=record.dlenv,
        created=record.created,
        files=len(contents.files),
        size=contents.size / 1e6,
        name=NAME,
        start="py" if windows else "python3",
        programs="dlenv-start\\Scripts\\" if windows else "dlenv-start/bin/",
    )
    for file in contents.files:
        if file.path.startswith(f"{PYTHON}/"):
            unpacked = "python\\python" if windows else "python/bin/python3"
            result += _OWN_PYTHON.format(archive=file.path, unpacked=unpacked)
    return result + "".join(f"\nNot in here: {problem}\n" for problem in contents.problems)
