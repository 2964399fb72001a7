"""``dlenv lab``: JupyterLab with the kernel of an environment."""

from __future__ import annotations

from pathlib import Path

import click

from dlenv.console import say


@click.command(
    epilog="""\b
Examples:
  dlenv lab
  dlenv lab --no-browser --port 9000 -- --ip=0.0.0.0"""
)
@click.option("--env", type=click.Path(path_type=Path), help="Environment.  [default: the active one]")
@click.option(
    "--notebooks",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder to open.  [default: where dlenv setup puts the notebooks]",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="[default: 8888, or the next that is free]")
@click.argument("arguments", nargs=-1, metavar="[-- JUPYTER ARGUMENTS]")
def command(
    env: Path | None, notebooks: Path | None, no_browser: bool, port: int | None, arguments: tuple[str, ...]
) -> int:
    """Open the course's notebooks in JupyterLab, run by the environment's own Python.

    What follows -- goes to JupyterLab, for example: dlenv lab -- --ip=0.0.0.0
    """
    from dlenv.notebooks import kernel, lab, run

    env = env or kernel.active()
    folder = notebooks or run.default(env)
    words, variables = lab.command(env, folder, browser=not no_browser, port=port, arguments=arguments)
    say(f"JupyterLab in {folder}: {kernel.describe(env, kernel.stable(env).name)}")
    return lab.start(words, variables)
