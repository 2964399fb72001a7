"""Messages in Chinese: who gets them, that none is missing, and what real commands say."""

from __future__ import annotations

import io
import os
import re
import socket
import string
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dlenv import language
from dlenv.cli import COMMANDS
from dlenv.console import confirm, pass_on, print_table
from dlenv.errors import UsageError
from dlenv.translation import FILE, Catalog, Template, entries

CHINESE = re.compile("[\u4e00-\u9fff]")
LOCALE = ("DLENV_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")


@pytest.fixture
def locale(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def use(**variables: str) -> None:
        for name in LOCALE:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return use


def dlenv(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in LOCALE}
    return subprocess.run(
        [sys.executable, "-m", "dlenv", *words],
        env={**environment, "COLUMNS": "80", "PYTHONUTF8": "1", **variables},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize(
    ("variables", "is_chinese"),
    [
        ({}, False),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_TW.UTF-8"}, True),
        ({"LANG": "en_US.UTF-8"}, False),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en_GB:en"}, False),
        ({"LANG": "de_DE.UTF-8", "LANGUAGE": "de:zh_CN:en"}, True),
        ({"LANG": "C.UTF-8", "LANGUAGE": "zh_CN"}, False),
        ({"DLENV_LANG": "zh", "LC_ALL": "C"}, True),
        ({"DLENV_LANG": "zh-Hans"}, True),
        ({"DLENV_LANG": "en", "LANG": "zh_CN.UTF-8"}, False),
        ({"DLENV_LANG": "", "LANG": "zh_CN.UTF-8"}, True),
    ],
)
def test_who_is_spoken_to_in_chinese(locale: Callable[..., None], variables: dict[str, str], is_chinese: bool) -> None:
    locale(**variables)
    language.check()
    assert language.speaks_chinese() is is_chinese


def test_the_name_of_a_windows_locale(locale: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    locale()
    monkeypatch.setattr(language.locale, "getlocale", lambda: ("Chinese (Simplified)_China", "936"))
    assert language.speaks_chinese()


def test_a_language_that_there_is_not(locale: Callable[..., None]) -> None:
    locale(DLENV_LANG="cn")
    with pytest.raises(UsageError, match="DLENV_LANG 'cn' is no language"):
        language.check()
    result = dlenv("keys", "list", DLENV_LANG="cn")
    assert (result.returncode, result.stderr) == (
        2,
        "Error: DLENV_LANG 'cn' is no language that dlenv speaks; set it to zh or en\n",
    )


# How an English text is recognised

CATALOG = Catalog(
    {
        "{path} can't be read ({strerror})": "无法读取 {path}（{strerror}）",
        "{path} can't be read": "无法读取 {path}",
        "No such file or directory": "没有这个文件或文件夹",
        "{first}; {second}": "{first}；{second}",
        "{a} is {b}": "{a} 是 {b}",
        "model": "模型",
        "give one by --{option}": "请用 --{option} 指定",
        "{who} because {why} today": "因为 {why}，{who}",
        "there is no driver": "没有驱动",
        "braces {{x}} of {name}": "{name} 的 {{x}}",
        "{count} files{more}": "{count} 个文件{more}",
        ", {size} MB": "，{size} MB",
        "{what} is not one of {known}{hint}": "{what} 不在 {known} 之中{hint}",
        "; see {where}": "；见 {where}",
        "{text}.": "{text}。",
        "{name} has no code for {gpu} (compute capability {of})": "{name} 不含 {gpu}（计算能力 {of}）的代码",
        "{name} has no code for {gpu}": "{name} 不含 {gpu} 的代码",
        "{gpu} (compute capability {of})": "{gpu}（计算能力 {of}）",
    }
)


@pytest.mark.parametrize(
    ("text", "translation"),
    [
        ("/a can't be read (No such file or directory)", "无法读取 /a（没有这个文件或文件夹）"),
        ("/a (b) can't be read (Errno 5)", "无法读取 /a (b)（Errno 5）"),
        ("/a can't be read (x); give one by --env", "无法读取 /a（x）；请用 --env 指定"),
        ("  - there is no driver", "  - 没有驱动"),
        ("model", "模型"),
        ("model can't be read", "无法读取 model"),  # a name, though the catalog has the word
        ("it stops because there is no driver today", "因为没有驱动，it stops"),
        ("braces {x} of it", "it 的 {x}"),
        ("3 files, 5 MB", "3 个文件，5 MB"),
        ("3 files", "3 个文件"),
        ("x is not one of a, b", "x 不在 a, b 之中"),
        ("x is not one of a, b; see y", "x 不在 a, b 之中；见 y"),
        ("it has no code for gfx803; see torch", "it 不含 gfx803 的代码；见 torch"),  # added to another text
        ("it has no code for a T4 (compute capability 7.5).", "it 不含 a T4（计算能力 7.5）的代码。"),
        ("/a can't be read (it is\nno file or directory)", "无法读取 /a（it is\nno file or directory）"),
        ("what another program says is what it says", "what another program says is what it says"),
        ("nothing; of this", "nothing; of this"),
        ("first\nthere is no driver", "first\n没有驱动"),
        ("", ""),
    ],
)
def test_a_filled_template_is_recognised(text: str, translation: str) -> None:
    assert CATALOG.translated(text) == translation


@pytest.mark.parametrize(
    "text", ["; ".join(f"part {n} is {n}" for n in range(200)), "words to read in a row and " * 130]
)
def test_a_text_with_many_readings_takes_no_time(text: str) -> None:
    catalog = Catalog.load()
    began = time.process_time()
    assert catalog.translated(text).startswith(text[:20])
    assert time.process_time() - began < 5


# The catalog


@pytest.fixture(scope="module")
def messages() -> object:
    pytest.importorskip("babel")
    import importlib.util

    path = Path(__file__).parents[2] / "docs" / "messages.py"
    spec = importlib.util.spec_from_file_location("docs_messages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(messages: object) -> object:
    return messages.catalog()  # type: ignore[attr-defined]


def test_the_catalog_has_every_message_of_the_source(messages: object, made: object) -> None:
    there = messages.FILE.read_bytes()  # type: ignore[attr-defined]
    assert there == messages.written(made), "the catalog is stale; `make messages` writes it again"  # type: ignore[attr-defined]


def test_what_is_found_in_a_source(messages: object, tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        '''"""No text for people, this one."""
@click.command()
def command(path):
    """Do this.

    And that.
    """
    log.info("no text for people either")
    found = re.compile("a pattern of words")
    say("Done")
    say(f"{len(path.parts)} part{'' if path.parts else 's'} of {path.name!r}, {', '.join(gpu.name for gpu in gpus)}")
    problem = f"{{}} of {_span(path)} and {_span(found)}{f'; see {found}' if found else ''}"
    raise Failed(f"{problem}; driver {driver or 'unknown'}")
''',
        encoding="utf-8",
    )
    assert list(messages._of_module(source)) == [  # type: ignore[attr-defined]
        "Do this.\n\nAnd that.",
        "Done",
        "{count} part of {name}, {name2}",
        "{count} parts of {name}, {name2}",
        "{{}} of {span} and {span2}; see {found}",
        "{{}} of {span} and {span2}",
        "{problem}; driver {driver}",
        "{problem}; driver unknown",
    ]


def test_every_message_is_translated(made: object) -> None:
    missing = [message.id for message in made if message.id and not message.string]  # type: ignore[attr-defined]
    assert missing == []


def test_every_translation_has_the_places_of_its_message_and_can_be_written_in_gbk(made: object) -> None:
    def places(text: str) -> list[str]:
        return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)

    for message in made:  # type: ignore[attr-defined]
        assert places(message.id) == places(message.string), message.id
        message.string.encode("gbk")  # a Chinese Windows' terminal


def test_messages_that_read_the_same_are_translated_the_same(made: object) -> None:
    """What stands in their places is all that tells "{os} on {arch}" from "{model} on {data}"."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for message in made:  # type: ignore[attr-defined]
        template = Template(message.id, message.string)
        text = template.filled({name: f"<{place}>" for place, name in enumerate(template.names)})
        found.setdefault(tuple(template.literals), {})[text] = message.id
    assert [list(same.values()) for same in found.values() if len(same) > 1] == []


def test_the_catalog_is_read_as_babel_reads_it(made: object) -> None:
    assert entries(FILE) == {message.id: message.string for message in made if message.id}  # type: ignore[attr-defined]


def test_options_and_file_names_stay_as_they_are(made: object) -> None:
    for message in made:  # type: ignore[attr-defined]
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+[a-z]", message.id):
            assert option in message.string, message.id


# What is shown


def test_a_table_on_a_terminal_and_in_a_pipe(
    locale: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    locale(DLENV_LANG="zh", COLUMNS="80")
    rows = [["architecture", "mlp"], ["data", "digits: 10 training and 2 validation rows"]]
    print_table(["what", "value"], rows)
    assert capsys.readouterr().out == "what\tvalue\narchitecture\tmlp\ndata\tdigits：训练 10 行，验证 2 行\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(["what", "value"], rows)
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
    assert [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[0] in "│┃"] == [
        ["内容", "值"],
        ["结构", "mlp"],
        ["数据", "digits：训练 10 行，验证 2 行"],
    ]
    assert len(set(map(_cells, lines))) == 1  # the borders are below each other


def test_a_question_and_the_words_of_another_program(
    locale: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    locale(DLENV_LANG="zh")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert confirm("Run these commands?")
    pass_on("Permission denied")
    assert capsys.readouterr().err == "运行这些命令吗？ [y/N]: Permission denied\n"


# Real commands


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), ["models", "export"], ["notebooks", "run"]])
def test_help(words: list[str]) -> None:
    result = dlenv(*words, "--help", DLENV_LANG="zh")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"用法：dlenv {' '.join(words)}".rstrip())
    assert "选项：" in result.stdout
    assert "显示本帮助并退出。" in result.stdout
    english = dlenv(*words, "--help").stdout
    for option in re.findall(r"^  (--[a-z-]+)", english, re.MULTILINE):
        assert f"  {option}" in result.stdout
    sentences = re.findall(r"^[^$]*\b(?:the|is|are|with|this)\b.*$", result.stdout, re.MULTILINE)
    assert [line for line in sentences if not CHINESE.search(line)] == []
    assert max(map(_cells, result.stdout.splitlines())) <= max(80, *map(len, english.splitlines()))


def _cells(line: str) -> int:
    return sum(2 if ord(char) > 0x2E7F else 1 for char in line)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["trian"], 2, "错误：没有命令 'trian'。"),
        (["train", "mlp"], 2, "错误：缺少选项 '--data'。"),
        (["train"], 2, "错误：缺少参数 'ARCHITECTURE'。"),
        (["train", "mlp", "--foldss", "3"], 2, "错误：没有选项 '--foldss'。"),
        (["train", "mlp", "--data", "spiral", "--folds", "x"], 2, "错误：'--folds' 的值无效：'x' 不是整数。"),
        (["setup", "--manager", "apt"], 2, "错误：'--manager' 的值无效：'apt' 不在 'uv', 'conda', 'colab' 之中。"),
        (["setup", "--torch", "x"], 2, "错误：无法理解 --torch 'x'；请给出例如 2.14.1 这样的值，或 auto"),
        (["predict", "mnist-lenet", "gone.png"], 2, "错误：无法读取 gone.png：没有这个文件或文件夹"),
        (["models", "show", "nobody"], 1, "错误：没有模型 'nobody'；有 "),
        (["models", "show", "a/b"], 2, "错误：'a/b' 不是 NAME 或 NAME/VERSION（版本例如 1）"),
        (["doctor", "--only", "torhc"], 2, "错误：没有检查项 'torhc'；有 driver.nvml"),
        (["keys", "list", "--file", "gone.toml"], 1, "错误：无法读取密钥文件 gone.toml：没有这个文件或文件夹；"),
        (["serve", "--max-rows", "0"], 2, "错误："),
    ],
)
def test_errors(words: list[str], code: int, said: str) -> None:
    result = dlenv(*words, DLENV_LANG="zh")
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_wrong_with_a_setting() -> None:
    from dlenv.language import catalog
    from dlenv_service.config import Settings, load_settings

    kinds = set()
    for name in Settings.model_fields:
        for value in ("x", "", "-1", "1.5", "inf", "9" * 30, [], 1.5):
            try:
                load_settings({"insecure": True, name: value})
            except UsageError as error:
                text = str(error)
                kinds.add(re.sub(r"^.*?: |'.*'|\d+", "", text))
                assert CHINESE.search(catalog().translated(text)), text
                assert "should" not in catalog().translated(text)
    assert len(kinds) > 10


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = dlenv("serve", "spiral-mlp", "--runtime", "local", "--port", str(port), DLENV_LANG="zh")
    assert result.returncode == 1
    assert f"错误：无法监听 127.0.0.1:{port}：端口已被占用；" in result.stderr


def test_the_doctor() -> None:
    result = dlenv("doctor", "--offline", "--only", "system", DLENV_LANG="zh")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert rows[0] == ["status", "check", "title", "detail", "fix"]  # scripts may go by names
    assert {row[0] for row in rows[1:]} <= {"ok", "warn", "fail", "skip", "error"}
    assert ["system.libc", "C 库足够新"] in [row[1:3] for row in rows]
    assert all(CHINESE.search(row[2]) for row in rows[1:])
    assert re.search(r"(没有错误|有问题)：\d+ 项检查，", result.stderr)


def test_a_report_for_others_is_in_english(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    result = dlenv("doctor", "--offline", "--only", "system", "--report", str(path), DLENV_LANG="zh")
    assert f"已写入 {path}；" in result.stderr
    assert not CHINESE.search(path.read_text(encoding="utf-8"))


def test_a_plan() -> None:
    words = ["setup", "--dry-run", "--course", "none", "--gpu", "none", "--env", "env"]
    result = dlenv(*words, DLENV_LANG="zh")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("机器：")
    assert "\n方案：env 由 uv 搭建：" in result.stdout
    assert "  - 由 uv 搭建环境：它随 dlenv 一起提供。" in result.stdout
    assert not CHINESE.search(dlenv(*words, "--json", DLENV_LANG="zh").stdout)


def test_json_and_english_are_as_without() -> None:
    for words in (["--help"], ["doctor", "--list"], ["train"]):
        plain = dlenv(*words)
        english = dlenv(*words, DLENV_LANG="en", LANG="zh_CN.UTF-8")
        assert (plain.stdout, plain.stderr) == (english.stdout, english.stderr)
        assert not CHINESE.search(plain.stdout + plain.stderr)
    assert dlenv("doctor", "--list", "--json", DLENV_LANG="zh").stdout == dlenv("doctor", "--list", "--json").stdout


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}],
    ids=["ascii", "C locale"],
)
def test_a_terminal_that_has_no_chinese(variables: dict[str, str]) -> None:
    for words in (["--help"], ["trian"], ["doctor", "--list"]):
        result = dlenv(*words, DLENV_LANG="zh", **variables)
        assert "Traceback" not in result.stderr
        assert result.stdout + result.stderr
        assert not CHINESE.search(result.stdout + result.stderr)


def test_a_terminal_in_gbk() -> None:
    environment = {**os.environ, "DLENV_LANG": "zh", "PYTHONIOENCODING": "gbk"}
    result = subprocess.run([sys.executable, "-m", "dlenv", "--help"], env=environment, capture_output=True, check=True)
    assert result.stdout.decode("gbk").startswith("用法：")


def test_english_does_not_load_the_catalog() -> None:
    script = (
        "import sys; from dlenv.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([name for name in ('dlenv.translation', 'dlenv.helptext') if name in sys.modules])"
    )
    environment = {**os.environ, "DLENV_LANG": "en"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
