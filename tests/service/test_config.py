"""Settings: where a value comes from, what is refused, and one flag and one variable for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pydantic
import pytest
from click.testing import CliRunner

from dlenv.commands.serve import command
from dlenv.errors import UsageError
from dlenv_service.config import ENVIRONMENT_ONLY, Settings, load_settings, variable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dlenv.yaml"
    path.write_text("max_batch: 3\nport: 3003\nmodels: [from-file]\n")
    return path


def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(file: Path) -> None:
    environ = {"DLENV_MAX_BATCH": "2", "DLENV_PORT": "2002", "PATH": "/bin"}
    settings = load_settings({"max_batch": 1}, environ, file)
    assert (settings.max_batch, settings.port, settings.models) == (1, 2002, ("from-file",))
    assert settings.max_rows == Settings().max_rows
    assert load_settings({}, {}, file).max_batch == 3
    assert load_settings() == Settings()


def test_a_list_in_a_variable_is_split_at_commas_and_spaces() -> None:
    assert load_settings({}, {"DLENV_MODELS": "a, b/2 c"}).models == ("a", "b/2", "c")


def test_an_empty_variable_counts_as_unset() -> None:
    assert load_settings({}, {"DLENV_MAX_BATCH": "", "DLENV_REPOSITORY": ""}) == Settings()


def test_variables_that_are_no_settings_are_known_too() -> None:
    assert load_settings({}, dict.fromkeys(ENVIRONMENT_ONLY, "x")) == Settings()


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_settings({}, {}, tmp_path / "empty.yaml") == Settings()


def refusal(
    flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None, file: Path | None = None
) -> str:
    with pytest.raises(UsageError) as refused:
        load_settings(flags, environ, file)
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_an_unknown_key_is_refused_wherever_it_stands_with_the_nearest_one(tmp_path: Path) -> None:
    assert refusal({"max_bach": 1}) == "flag: unknown setting 'max_bach'; did you mean max_batch?"
    assert "see `dlenv serve --help`" in refusal({}, {"DLENV_NOSUCH": "1"})
    assert (
        refusal({}, {"DLENV_PROT": "1"})
        == "environment variables: unknown setting 'DLENV_PROT'; did you mean DLENV_PORT?"
    )
    path = tmp_path / "a.yaml"
    path.write_text("max-rows: 4\n")
    assert refusal({}, {}, path) == f"{path}: unknown setting 'max-rows'; did you mean max_rows?"
    path.write_text("1: 4\n")
    assert refusal({}, {}, path) == f"{path}: unknown setting '1'; see `dlenv serve --help` for the settings"


def test_a_value_out_of_range_is_refused_with_its_key_value_and_source(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("port: 70000\n")
    assert refusal({"port": 0}) == "--port 0: input should be greater than or equal to 1"
    assert refusal({}, {"DLENV_PORT": "0"}) == "DLENV_PORT '0': input should be greater than or equal to 1"
    assert refusal({}, {}, path) == f"{path}: port 70000: input should be less than or equal to 65535"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"DLENV_MAX_BATCH": "many"}, ["DLENV_MAX_BATCH", "'many'", "integer"]),
        ({"DLENV_MAX_BATCH": "1.5"}, ["DLENV_MAX_BATCH", "'1.5'", "integer"]),
        ({"DLENV_MAX_DELAY_US": "-1"}, ["DLENV_MAX_DELAY_US", "'-1'", "0"]),
        ({"DLENV_DEVICE": "tpu"}, ["DLENV_DEVICE", "'tpu'", "'auto', 'cpu' or 'cuda'"]),
        ({"DLENV_RUNTIME": "rya"}, ["DLENV_RUNTIME", "'rya'", "'ray' or 'local'"]),
        ({"DLENV_MAX_BODY_BYTES": "1"}, ["DLENV_MAX_BODY_BYTES", "'1'", "1024"]),
        ({"DLENV_DEADLINE_MS": "0"}, ["DLENV_DEADLINE_MS", "'0'", "1"]),
        ({"DLENV_GPUS_PER_REPLICA": "-1"}, ["DLENV_GPUS_PER_REPLICA", "'-1'", "0"]),
        ({"DLENV_REPLICAS": "3", "DLENV_MAX_REPLICAS": "2"}, ["max_replicas 2", "replicas 3", "raise it"]),
        ({"DLENV_MAX_QUEUE_ROWS": "5"}, ["max_queue_rows 5", "max_rows 1024", "raise it or lower"]),
    ],
)
def test_values_that_cannot_be_used(environ: dict[str, str], words: list[str]) -> None:
    text = refusal({}, environ)
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"port: 8000\nmodels: a: b", ["not valid YAML (line 2, column 10: mapping values are not allowed here)"]),
        (b"\xff\xfe\x00", ["not valid YAML"]),
        (b"- a\n", ["a mapping of settings", "list"]),
        (b"models: lenet\n", ["models", "'lenet'", "tuple"]),
        (b"!!python/object/apply:os.system ['true']\n", ["not valid YAML"]),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    text = refusal({}, {}, path)
    for word in (str(path), *words):
        assert word in text


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "no.yaml"
    assert (
        refusal({}, {}, missing) == f"--config {missing}: No such file or directory; give a YAML file that can be read"
    )
    assert "Is a directory" in refusal({}, {}, tmp_path)


def test_fronts_need_a_system_that_passes_connections_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("socket.send_fds", raising=False)
    assert load_settings({"fronts": 0}).fronts == 0
    with pytest.raises(UsageError, match=r"fronts 2: this system can't .* give 0"):
        load_settings({"fronts": 2})


def test_settings_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Settings().port = 9  # type: ignore[misc]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_has_a_description_a_flag_and_a_variable(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description
    assert field.description.endswith(".")
    flags = {flag for param in command.params if isinstance(param, click.Option) for flag in param.opts}
    assert f"--{name.replace('_', '-')}" in flags
    with pytest.raises(UsageError, match=rf"did you mean {variable(name)}\?"):
        load_settings({}, {f"{variable(name)}X": "1"})  # one letter too many: the nearest known is the setting's
    help_text = CliRunner().invoke(command, ["--help"]).output
    assert f"--{name.replace('_', '-')}" in help_text


def test_each_default_stands_in_the_help() -> None:
    text = " ".join(CliRunner().invoke(command, ["--help"], terminal_width=200).output.split())
    for name, field in Settings.model_fields.items():
        if field.default not in (None, (), False):
            assert f"[default: {field.default}]" in text, name
