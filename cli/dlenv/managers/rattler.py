"""A conda environment made without conda, mamba or micromamba: by py-rattler, the library under pixi.

API: https://conda.github.io/rattler/py-rattler/
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from dlenv.console import needs, say
from dlenv.errors import SetupError
from dlenv.network.http import public, redacted
from dlenv.network.progress import DownloadProgress

# A silent mirror must not hold everything up; conda-forge's listing, tens of megabytes, may take a slow one minutes.
_REQUEST_LIMIT_S = 600
_RETRIES = 1


class Failed(Exception):
    """A channel did not give what it should; the text says why."""


@needs("conda")
def create(path: Path, specs: Sequence[str], channel: str) -> None:
    """A conda environment at ``path`` with ``specs`` from the channel at this address, and what these depend on.

    Raises ``Failed`` where the channel can't be had, ``SetupError`` where it is whole and has no such packages, and
    ``MissingExtra`` without py-rattler. After an error the folder may hold half an environment.
    """
    import rattler
    from rattler.exceptions import (
        DetectVirtualPackageError,
        FetchRepoDataError,
        GatewayError,
        InstallerError,
        InvalidChannelError,
        InvalidUrlError,
        IoError,
        SolverError,
        TransactionError,
    )

    try:
        asyncio.run(_create(path, specs, channel))
    except SolverError as error:
        platform = rattler.Subdir.current()
        raise SetupError(
            f"{public(channel)} has no {' with '.join(specs)} for {platform} ({_line(error)}); name another version by "
            "--python"
        ) from None
    except (
        DetectVirtualPackageError,
        FetchRepoDataError,
        GatewayError,
        InstallerError,
        InvalidChannelError,
        InvalidUrlError,
        IoError,
        TransactionError,
    ) as error:
        raise Failed(_line(error)) from None


async def _create(path: Path, specs: Sequence[str], channel: str) -> None:
    import rattler

    client = rattler.Client.default_client(max_retries=_RETRIES, timeout=_REQUEST_LIMIT_S)
    gateway = rattler.Gateway(client=client, show_progress=sys.stderr.isatty())
    records = await rattler.solve([channel], specs, gateway=gateway, virtual_packages=rattler.VirtualPackage.detect())
    size = sum(record.size or 0 for record in records)
    say(f"Resolved {len(records)} conda packages, {decimal(size)} to download at most")
    with DownloadProgress("conda packages") as progress:
        reporter: Any = _Reporter(progress, size)  # py-rattler calls what is there of its protocol
        await rattler.install(list(records), path, client=client, reporter=reporter)


class _Reporter:
    """What py-rattler tells while it installs, as one sum; see ``rattler.install.InstallerReporter``."""

    def __init__(self, progress: DownloadProgress, size: int) -> None:
        self._progress = progress
        self._total = size  # bytes of all packages
        self._done: dict[int, int] = {}

    def on_populate_cache_start(self, operation: int, package_name: str) -> int:  # noqa: ARG002  # py-rattler's names
        """A package is about to be taken from the cache or the channel."""
        return operation

    def on_download_start(self, cache_entry: int) -> int:
        """A download begins; what is given back names it from now on."""
        return cache_entry

    def on_download_progress(self, download_idx: int, progress: int, total: int | None) -> None:  # noqa: ARG002
        """So many bytes of one package are there."""
        self._done[download_idx] = progress
        self._progress(sum(self._done.values()), self._total)


def _line(error: Exception) -> str:
    return redacted("; ".join(line.strip() for line in str(error).strip().splitlines() if line.strip()))
