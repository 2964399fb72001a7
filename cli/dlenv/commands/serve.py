"""``dlenv serve``: serve the repository's models over HTTP.

The flags are made from :class:`dlenv_service.config.Settings`, so a new setting is a flag, a variable and a YAML key
at once.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from dlenv import completion
from dlenv.console import needs, say

with needs("serve"):
    from dlenv_service import logs
    from dlenv_service.config import Settings, load_settings
    from dlenv_service.exposure import is_loopback


def _option(name: str) -> click.Option:
    """The flag of one setting; a value that isn't given stays None, so that the other sources count."""
    field = Settings.model_fields[name]
    annotation = next((part for part in get_args(field.annotation) if part in (int, float, str, Path)), None)
    kind: Any = annotation if type(None) in get_args(field.annotation) else field.annotation
    text = field.description or ""
    if field.default not in (None, (), False):
        text = f"{text.removesuffix('.')} [default: {field.default}]."
    flag = f"--{name.replace('_', '-')}"
    if name == "models":
        return click.Option(
            [flag], multiple=True, metavar="NAME[/VERSION]...", shell_complete=completion.models, help=text
        )
    if get_origin(kind) is tuple:
        return click.Option([flag], multiple=True, help=text)
    if get_origin(kind) is Literal:
        return click.Option([flag], type=click.Choice(get_args(kind)), help=text)
    if kind is bool:
        return click.Option([flag], is_flag=True, default=None, help=text)
    if kind is Path:
        return click.Option([flag], type=click.Path(path_type=Path), help=text)
    return click.Option([flag], type=kind, help=text)


def _serve(config: Path | None, print_config: bool, names: tuple[str, ...], **flags: Any) -> int:
    given = {key: value for key, value in flags.items() if value not in (None, ())}
    models = [name for each in (*flags["models"], *names) for name in each.split(",") if name]
    if models:
        given["models"] = models
    settings = load_settings(given, os.environ, config)
    logs.set_up(settings)
    # In a file of JSON lines, what dlenv says about itself is one, too.
    tell = logging.getLogger("dlenv.serve").info if settings.log_format == "json" else say
    with needs("serve"):
        if print_config:
            from dlenv_service.cluster import serve_config_yaml

            click.echo(serve_config_yaml(settings), nl=False)
            return 0
        if settings.keys is None and not is_loopback(settings.published_address or settings.host):
            tell(f"Note: no key is asked for; whoever reaches {settings.url} can ask, load and unload models.")
        if settings.runtime == "local":
            from dlenv_service.local import run
        else:
            from dlenv_service.cluster import run_on_ray as run
        return run(settings, tell)


command = click.Command(
    "serve",
    callback=_serve,
    help="""Serve models over HTTP: Open Inference Protocol v2, /predict, /metrics, /docs.

    Without names, every model in the repository is served, the shipped ones included. Each setting can also be given
    as a variable (--max-batch as DLENV_MAX_BATCH) or in a YAML file (max_batch); a flag goes before a variable, a
    variable before the file.
    """,
    epilog="""\b
Examples:
  dlenv serve                                  every model, on Ray, at http://127.0.0.1:8000
  dlenv serve mnist-lenet --runtime local      one model in one process, ready in seconds
  dlenv serve --host 0.0.0.0 --keys keys.toml  for others too, who need a key
  dlenv serve --config service.yaml            settings from a file""",
    params=[
        click.Argument(["names"], nargs=-1, metavar="[NAME[/VERSION]]...", shell_complete=completion.models),
        click.Option(
            ["--config"],
            envvar="DLENV_CONFIG",
            type=click.Path(path_type=Path),
            help="YAML file with settings; unknown keys are refused.",
        ),
        click.Option(["--print-config"], is_flag=True, help="Print the Serve config file for `serve deploy` and stop."),
        *(_option(name) for name in Settings.model_fields),
    ],
)
