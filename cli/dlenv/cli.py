"""The ``dlenv`` command: finds a subcommand, runs it, turns errors into one line and an exit code.

Subcommands live in ``dlenv.commands``, one module each, and are imported only when called: ``dlenv --help``
must answer at once, and must work where PyTorch and Ray are not installed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

from dlenv import __version__, language
from dlenv.console import say, say_error
from dlenv.errors import DlenvError

# Name -> one line for ``dlenv --help``. The command is the attribute ``command`` of ``dlenv.commands.<name>``.
COMMANDS = {
    "bench": "Measure how many requests a service answers, how quickly, and whether rightly.",
    "catalog": "Show the PyTorch builds that dlenv knows, and compare them with an index.",
    "completion": "Print what makes a shell complete dlenv's commands.",
    "doctor": "Examine this machine and an environment: what is wrong, and how to put it right.",
    "evaluate": "Measure a model on its held-out data.",
    "experiment": "Run the experiments of the course: a table, a picture, and what the course says.",
    "keys": "Make, list and remove the API keys of a service.",
    "lab": "Open JupyterLab on the course's notebooks, with the right kernel.",
    "models": "List, show, check and remove the models in the repository.",
    "notebooks": "Fetch, list and run the course's notebooks.",
    "predict": "Ask a model about images or rows.",
    "runs": "List, show and compare what was trained.",
    "serve": "Serve models over HTTP.",
    "setup": "Build an environment that provably works on this machine.",
    "tune": "Search for good options: many trainings at once, by Ray Tune.",
    "train": "Train a classifier and publish it to the model repository.",
}


class _LazyGroup(click.Group):
    """A group that knows its subcommands' names and summaries without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"dlenv.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """What may stand there, and what it does: the subcommands', whole and without importing them."""
        known = sorted(COMMANDS.items())
        names = [CompletionItem(name, help=about) for name, about in known if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    no_args_is_help=True,
    epilog="""\b
Examples:
  dlenv setup                          an environment for this machine, with the course
  dlenv doctor                         what is wrong with it, and how to put it right
  dlenv train lenet --data mnist5k     a model of your own
  dlenv serve                          a service at http://127.0.0.1:8000""",
)
@click.option("--version", is_flag=True, help="Show the version and exit.")
@click.option("--verbose", is_flag=True, help="With --version: those of Python, PyTorch, Ray, the driver ... as well.")
@click.pass_context
def cli(ctx: click.Context, version: bool, verbose: bool) -> None:
    """From a bare machine to deep learning that runs, and from a trained classifier to a service."""
    if verbose and not version:
        raise click.UsageError("--verbose belongs to --version; commands have their own, after their name", ctx)
    if version:
        click.echo(f"dlenv {__version__}")
        if verbose:
            from dlenv.versions import versions

            for name, found in versions():
                click.echo(f"{name} {found}")
        ctx.exit()
    if ctx.invoked_subcommand is None:
        raise click.UsageError("Missing command.", ctx)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0 (done), 1 (failed), 2 (misuse) or 130 (interrupted)."""
    try:
        language.check()
        if language.speaks_chinese():
            from dlenv import helptext

            click.Context.formatter_class = helptext.Formatter
            helptext.describe_completions()
        result = cli.main(args=list(args) if args is not None else None, prog_name="dlenv", standalone_mode=False)
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("Interrupted.")
        sys.exit(130)
    except DlenvError as error:
        say_error(str(error))
        sys.exit(error.exit_code)
    sys.exit(result if isinstance(result, int) else 0)


def _show(error: click.ClickException) -> None:
    if language.speaks_chinese():
        from dlenv import helptext

        helptext.show(error)
    else:
        error.show()
