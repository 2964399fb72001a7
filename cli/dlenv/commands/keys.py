"""``dlenv keys``: the API keys of a service, in a file that holds their hashes."""

from __future__ import annotations

from pathlib import Path

import click

from dlenv.console import print_json, print_table, say
from dlenv.errors import UsageError
from dlenv_service import keyfile
from dlenv_service.access import SCOPES, KeyScope

_file = click.option(
    "--file",
    "path",
    envvar="DLENV_KEYS",
    required=True,
    type=click.Path(path_type=Path),
    help="The file of keys.  [default: $DLENV_KEYS]",
)


@click.group(
    epilog="""\b
Examples:
  dlenv keys add camera --file keys.toml --rate 20
  dlenv keys add operator --file keys.toml --scope infer --scope admin
  dlenv keys list --file keys.toml
  dlenv keys remove camera --file keys.toml"""
)
def command() -> None:
    """Make, list and remove the API keys of a service.

    `dlenv serve --keys FILE` asks for them, and follows the file within two seconds, without a restart: to rotate a
    key, add a new one, give it out, and remove the old one.
    """


@command.command()
@click.argument("name")
@_file
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    help="What it may do: ask models (infer), load and unload them (admin); repeatable.  [default: infer]",
)
@click.option("--read-only", is_flag=True, help="No scope: metadata, readiness, statistics and metrics only.")
@click.option("--rate", type=float, metavar="N", help="Most requests per second.  [default: any]")
def add(name: str, path: Path, scopes: tuple[KeyScope, ...], read_only: bool, rate: float | None) -> None:
    """Make a key and print it, this once: the file keeps only its hash."""
    if read_only and scopes:
        raise UsageError("--read-only and --scope exclude each other; leave one of them out")
    chosen: tuple[KeyScope, ...] = () if read_only else scopes or ("infer",)
    key = keyfile.add(path, name, chosen, rate)
    say(f"Added {name} to {path}. Keep the key now, it is shown only once; send it as Authorization: Bearer KEY.")
    click.echo(key)


@command.command("list")
@_file
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_keys(path: Path, as_json: bool) -> None:
    """Show the keys' names, scopes and limits."""
    keys, _ = keyfile.read(path)
    if as_json:
        print_json(
            {
                "schema": 1,
                "keys": [
                    {
                        "name": key.name,
                        "scopes": list(key.scopes),
                        "requests_per_second": key.requests_per_second,
                        "created": key.created.isoformat() if key.created else None,
                    }
                    for key in keys
                ],
            }
        )
        return
    rows = [
        [
            key.name,
            ", ".join(key.scopes) or "read only",
            f"{key.requests_per_second:g}" if key.requests_per_second is not None else "any",
            f"{key.created:%Y-%m-%d %H:%M}" if key.created else "-",
        ]
        for key in keys
    ]
    print_table(["name", "scopes", "requests/s", "made (UTC)"], rows)


@command.command()
@click.argument("name")
@_file
def remove(name: str, path: Path) -> None:
    """Take a key away; services stop to take it within two seconds."""
    keyfile.remove(path, name)
    say(f"Removed {name} from {path}.")
