"""``dlenv notebooks``: fetch, list and run the course's notebooks."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from dlenv.commands.notebooks_run import command as run
from dlenv.console import print_json, print_table, say
from dlenv.plan.model import Edition

_folder = click.option(
    "--notebooks", "folder", type=click.Path(path_type=Path), help="Folder of the notebooks. [default: ./d2l-<course>]"
)
_course = click.option("--course", type=click.Choice(["zh", "en"]), help="Edition of the course.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(short_help="Fetch, list and run the course's notebooks.")
def command() -> None:
    """Fetch, list and run the notebooks of Dive into Deep Learning, in their PyTorch edition."""


command.add_command(run)


@command.command()
@click.option(
    "--course",
    type=click.Choice(["zh", "en"]),
    help="Edition.  [default: the one that is here, else zh where the system speaks Chinese, else en]",
)
@_folder
@click.option("--mirror", metavar="URL", help="Download from here only: an archive, or a folder that has it.")
@click.option(
    "--from",
    "archive",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take them from this archive (zip or tar.gz) instead of the network.",
)
@click.option("--accept-changed", is_flag=True, help="Take an archive that is not as it was when first fetched.")
@_json
def fetch(
    course: Edition | None,
    folder: Path | None,
    mirror: str | None,
    archive: Path | None,
    accept_changed: bool,
    as_json: bool,
) -> None:
    """Fetch the notebooks, or what is missing of them, and update those that you have not edited.

    The folder holds a folder for each chapter. What you have edited is never overwritten.
    """
    from dlenv.notebooks.fetch import fetch_notebooks
    from dlenv.notebooks.folder import chosen

    place, edition = chosen(folder, course)
    result = fetch_notebooks(
        edition,
        place,
        archive=archive,
        mirror=mirror,
        accept_changed=accept_changed,
        refresh=True,
    )
    if as_json:
        print_json({"schema": 1, **msgspec.to_builtins(result, enc_hook=str)})
        return
    for name in result.left_out:
        say(f"Left out, since it is damaged in the archive: {name}")
    for name in result.kept:
        say(f"Kept, since you have edited it: {name}")
    say(
        f"{len(result.added)} files added, {len(result.updated)} updated, {len(result.kept)} kept; from {result.source}"
    )
    click.echo(result.folder)


@command.command(name="list")
@_course
@_folder
@_json
def list_(course: Edition | None, folder: Path | None, as_json: bool) -> None:
    """List chapters and notebooks, and which of them you have edited."""
    from dlenv.notebooks.folder import chapters, fetching, find, missing

    place, manifest = find(folder, course)
    found = chapters(place, manifest)
    gone = missing(place, manifest)
    if as_json:
        print_json(
            {
                "schema": 1,
                "folder": str(place.absolute()),
                "edition": manifest.edition,
                "source": manifest.source,
                "chapters": msgspec.to_builtins(found),
                "missing": gone,
                "left_out": list(manifest.left_out),
            }
        )
        return
    rows = [
        [
            chapter.title,
            entry.path.removesuffix(".ipynb"),
            entry.title,
            "" if entry.state == "as fetched" else entry.state,
        ]
        for chapter in found
        for entry in chapter.notebooks
    ]
    print_table(["chapter", "notebook", "title", "state"], rows)
    if gone:
        say(f"{len(gone)} files are missing; again: {fetching(manifest.edition, place)}")


@command.command()
@_course
@_folder
def path(course: Edition | None, folder: Path | None) -> None:
    """Print the folder that holds the notebooks."""
    from dlenv.notebooks.folder import find

    click.echo(find(folder, course)[0].absolute())
