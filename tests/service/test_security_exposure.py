"""Which addresses the service may listen on without a key: loopback, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from dlenv.commands.serve import command
from dlenv.errors import StartError, UsageError
from dlenv_service.arrangement import arrange
from dlenv_service.config import load_settings
from dlenv_service.exposure import is_loopback

OPEN = ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "example.org", "localhost.example.org", "::ffff:10.0.0.1"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_only_this_machine_reaches_loopback(host: str) -> None:
    assert is_loopback(host)
    assert load_settings({"host": host}).host == host


@pytest.mark.parametrize("host", OPEN)
def test_others_may_reach_anything_else(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError, match=r"whoever reaches it .* --keys FILE .* --insecure"):
        load_settings({"host": host})
    assert load_settings({"host": host, "insecure": True}).insecure
    assert load_settings({"host": host, "keys": "keys.toml"}).keys == Path("keys.toml")


def test_several_replicas_behind_haproxy_are_judged_by_the_same_address() -> None:
    load_settings({"replicas": 2})
    with pytest.raises(UsageError, match=r"--host 0\.0\.0\.0 is not loopback"):
        load_settings({"replicas": 2, "host": "0.0.0.0"})


def test_in_a_container_the_published_address_is_judged_and_not_the_host() -> None:
    inside = {"DLENV_HOST": "0.0.0.0"}
    assert load_settings({}, {**inside, "DLENV_ADDRESS": "127.0.0.1"}).host == "0.0.0.0"
    for published in OPEN:
        with pytest.raises(UsageError, match="the port is published at "):
            load_settings({}, {**inside, "DLENV_ADDRESS": published})
        # Also where the host itself would do: a network of the host's own.
        with pytest.raises(UsageError, match="the port is published at "):
            load_settings({}, {"DLENV_ADDRESS": published})
        load_settings({}, {**inside, "DLENV_ADDRESS": published, "DLENV_INSECURE": "1"})
        load_settings({}, {**inside, "DLENV_ADDRESS": published, "DLENV_KEYS": "/run/secrets/keys"})


@pytest.mark.parametrize("variable", ["DLENV_ADDRESS", "DLENV_KEYS", "DLENV_INSECURE"])
def test_an_empty_variable_protects_nothing(variable: str) -> None:
    with pytest.raises(UsageError, match=r"--host 0\.0\.0\.0 is not loopback"):
        load_settings({}, {"DLENV_HOST": "0.0.0.0", variable: ""})


@pytest.mark.parametrize("insecure", ["0", "false", "no"])
def test_insecure_can_be_denied(insecure: str) -> None:
    with pytest.raises(UsageError, match="not loopback"):
        load_settings({"host": "::"}, {"DLENV_INSECURE": insecure})


@pytest.mark.parametrize("address", ["10.0.0.5:6379", "auto:1", "[::1]:8000", "http://127.0.0.1", "a b", "-"])
def test_a_published_address_has_no_port(address: str) -> None:
    with pytest.raises(UsageError, match=r"DLENV_ADDRESS '.*': give an IP address .* DLENV_RAY_ADDRESS"):
        load_settings({}, {"DLENV_ADDRESS": address, "DLENV_KEYS": "keys.toml"})


def test_the_ray_cluster_has_a_variable_of_its_own() -> None:
    assert load_settings({}, {"DLENV_RAY_ADDRESS": "10.0.0.5:6379"}).address == "10.0.0.5:6379"


@pytest.mark.parametrize("flags", [{}, {"replicas": 2}, {"max_replicas": 3}])
def test_each_ray_of_our_own_gets_a_token_of_its_own(flags: dict[str, int], tmp_path: Path) -> None:
    environments = [arrange(load_settings(flags), tmp_path).environment for _ in range(2)]
    assert [each["RAY_AUTH_MODE"] for each in environments] == ["token", "token"]
    first, second = (each["RAY_AUTH_TOKEN"] for each in environments)
    assert len(bytes.fromhex(first)) == len(bytes.fromhex(second)) == 32
    assert first != second


def test_replicas_get_what_was_decided() -> None:
    settings = load_settings({}, {"DLENV_HOST": "0.0.0.0", "DLENV_ADDRESS": "127.0.0.1"})
    assert load_settings(settings.model_dump(mode="json", exclude_defaults=True)) == settings


def test_the_command_refuses_before_it_starts_anything() -> None:
    with pytest.raises(UsageError, match=r"--host 0\.0\.0\.0 is not loopback") as refused:
        CliRunner().invoke(command, ["--host", "0.0.0.0"], catch_exceptions=False)
    assert refused.value.exit_code == 2
    flag = next(each for each in command.params if each.name == "insecure")
    assert isinstance(flag, click.Option)
    assert flag.is_flag


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of pydantic, when it is imported
@pytest.mark.parametrize(
    ("host", "given", "refused"),
    [
        ("127.0.0.1", {}, False),
        ("0.0.0.0", {}, True),
        ("0.0.0.0", {"keys": "keys.toml"}, False),
        ("0.0.0.0", {"insecure": True}, False),
        ("0.0.0.0", {"published_address": "127.0.0.1"}, False),
        ("127.0.0.1", {"published_address": "10.0.0.1", "insecure": True}, False),
        (None, {}, True),
    ],
)
def test_on_an_existing_cluster_serves_own_host_counts(
    host: str | None, given: dict[str, object], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlenv_service import existing

    client = SimpleNamespace(http_config=SimpleNamespace(host=host))
    monkeypatch.setattr(existing, "_get_global_client", lambda: client)
    settings = load_settings({"address": "10.0.0.9:6379", **given})
    if refused:
        with pytest.raises(StartError, match=r"Serve's own host .* is not loopback"):
            existing._require_protection(settings)
    else:
        existing._require_protection(settings)
