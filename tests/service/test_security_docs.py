"""What SECURITY.md and docs/security.md say is so: options, texts, figures, links."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from dlenv.cli import cli
from dlenv.errors import UsageError
from dlenv_service.config import Settings, load_settings, variable
from dlenv_service.limited import MOST_HEAD_BYTES

ROOT = Path(__file__).parents[2]
GUIDE, POLICY = ROOT / "docs" / "security.md", ROOT / "SECURITY.md"


def options(command: click.Command) -> set[str]:
    found = {flag for param in command.params if isinstance(param, click.Option) for flag in param.opts}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found |= options(child)
    return found


@pytest.mark.parametrize("path", [GUIDE, POLICY], ids=lambda path: path.name)
def test_each_option_and_variable_exists_and_each_link_leads_somewhere(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= options(cli)
    known = {variable(name) for name in Settings.model_fields} | {"DLENV_KEY"}
    assert set(re.findall(r"DLENV_[A-Z_]+", text)) <= known
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    for link in links:
        assert (path.parent / link).exists(), link


def test_each_setting_about_security_is_explained() -> None:
    text = GUIDE.read_text()
    for name in (
        *("keys", "insecure", "published_address", "admin_address", "audit_log", "cors_origin", "tls_certificate"),
        *("tls_key", "header_timeout_ms", "max_connections", "body_timeout_ms", "max_body_bytes"),
    ):
        assert f"--{name.replace('_', '-')}" in text, name


def test_the_refusal_is_quoted_word_for_word() -> None:
    with pytest.raises(UsageError) as refused:
        load_settings({"host": "0.0.0.0"})
    assert f"\nError: {refused.value}\n" in GUIDE.read_text()


def test_the_figures_of_the_limits_are_those_of_the_settings() -> None:
    settings = load_settings()
    rows = dict(re.findall(r"^\| (.+?) \| ([^|]+) \| [^|]+ \|$", GUIDE.read_text(), re.MULTILINE))

    def row(start: str) -> str:
        return next(value for key, value in rows.items() if start in key)

    assert row("--header-timeout-ms") == f"{settings.header_timeout_ms // 1000} s"
    assert row("--body-timeout-ms") == f"{settings.body_timeout_ms // 1000} s"
    assert row("bytes of a head") == f"{MOST_HEAD_BYTES // 1024} KiB"
    assert row("--max-connections").startswith(f"{settings.max_connections:,}, ")
    assert row("--max-body-bytes") == (
        f"{settings.max_body_bytes >> 20} MiB, {settings.max_pixels // 10**6} million, {settings.max_rows:,}"
    )
    assert row("--max-queue-rows") == f"{settings.max_queue_rows:,} rows, {settings.max_pending_bytes >> 20} MiB"
