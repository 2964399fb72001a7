"""``dlenv completion``: the lines that teach a shell to complete dlenv's commands, options and models."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from dlenv.errors import DlenvError

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples, each once:
  dlenv completion bash >> ~/.bashrc
  dlenv completion zsh >> ~/.zshrc            behind its line of compinit
  dlenv completion fish > ~/.config/fish/completions/dlenv.fish"""
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete dlenv's commands, options, and the names of models and checks.

    Needs bash 4.4 or newer; in zsh, `compinit` must have run before. Open a new shell afterwards.
    """
    found = get_completion_class(shell)
    assert found is not None  # click has these three, and no other was let in
    script = found(ctx.find_root().command, {}, "dlenv", "_DLENV_COMPLETE")
    try:
        text = script.source()
    except RuntimeError as error:  # click asks bash for its version, where there is one
        raise DlenvError(f"{error}") from None
    # click's own lines for fish take what a command does only as far as its first comma.
    click.echo(text.replace('(string split "," $completion)', '(string split --max 1 -- "," $completion)'))
