"""The API key that a command sends to a service."""

from __future__ import annotations

import click

from dlenv.errors import UsageError

__all__ = ["bearer", "key_option"]

key_option = click.option(
    "--key",
    envvar="DLENV_KEY",
    help="API key for the service. Others on this machine see what is given here; better set $DLENV_KEY.",
)


def bearer(key: str | None) -> dict[str, str]:
    """The headers that carry a key; none where there is no key.

    Raises:
        UsageError: it can't be one; it isn't repeated.
    """
    if key is None:
        return {}
    if not key or not all("!" <= char <= "~" for char in key):
        raise UsageError("the API key holds characters that no key has; give it as `dlenv keys` printed it")
    return {"Authorization": f"Bearer {key}"}
