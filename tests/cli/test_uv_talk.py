"""What uv says becomes lines and one progress: of recorded talk, and of real downloads on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import Server
from wheel_index import add

from dlenv.environment.record import Package, installed
from dlenv.managers import install, terminal, uv, venv
from dlenv.managers.source import Source, Sources
from dlenv.managers.talk import Talk
from dlenv.plan import Candidate

DATA = Path(__file__).parents[1] / "data" / "uv"
MIB = 1 << 20
WHEELS = {"numpy": 17.41, "scipy": 34.74, "pandas": 11.46, "matplotlib": 11.07}  # MiB, as uv drew them
PACKAGES = ["matplotlib==3.7.5", "numpy==1.26.4", "pandas==1.5.3", "scipy==1.11.4", "six==1.17.0"]


def recorded(name: str) -> list[str]:
    pieces: list[str] = json.loads((DATA / f"{name}.json").read_text(encoding="ascii"))
    return pieces


def heard(pieces: list[str], full: tuple[int, int] | None = None) -> tuple[list[str], list[tuple[int, int | None]]]:
    """The lines, and the different states of the downloads."""
    talk, lines, states = Talk(terminal.COLUMNS, full), [], []
    for piece in pieces:
        lines += talk.feed(piece)
        states.append((talk.done, talk.total))
    return lines + talk.end(), list(dict.fromkeys(states))


def test_the_bars_of_a_download_are_added_up() -> None:
    lines, states = heard(recorded("download"))
    assert [re.sub(r" in \S+$", "", line) for line in lines] == [
        "Using Python 3.11.7 environment at: env",
        "Resolved 5 packages",
        "Prepared 5 packages",
        "Installed 5 packages",
        *(f" + {package}" for package in PACKAGES),
    ]
    done = [state[0] for state in states]
    assert done == sorted(done)
    assert len(done) > 20
    assert done[0] == 0
    assert states[0][1] is None
    assert states[-1][0] == states[-1][1] == pytest.approx(sum(WHEELS.values()) * MIB, rel=1e-3)


def test_an_older_uv_is_understood() -> None:
    """It ends the rows that it draws."""
    lines, states = heard(recorded("older"))
    assert [re.sub(r" in \S+$", "", line) for line in lines] == [
        "Using Python 3.11.7 environment at: env",
        "Resolved 3 packages",
        "Prepared 3 packages",
        "Installed 3 packages",
        *(f" + {package}" for package in ("numpy==1.26.4", "scipy==1.11.4", "six==1.17.0")),
    ]
    assert [done for done, _ in states] == sorted(done for done, _ in states)
    assert len(states) > 8
    expected = (WHEELS["numpy"] + WHEELS["scipy"]) * MIB + 10.79 * 1024
    assert states[-1][0] == states[-1][1] == pytest.approx(expected, rel=1e-3)


def test_where_nothing_is_cached_the_size_of_all_is_the_total_from_the_beginning() -> None:
    size = round(75 * MIB)
    _, states = heard(recorded("download"), (5, size))
    assert {total for _, total in states} == {None, size}
    assert states[-1] == (size, size)
    _, states = heard(recorded("download"), (6, size))  # uv prepares five: the sixth is in the cache
    assert states[-1][1] != size


def test_how_the_talk_is_cut_does_not_matter() -> None:
    for name in ("download", "older", "warning", "broken-off", "error"):
        whole = "".join(recorded(name))
        lines, states = heard(recorded(name))
        by_character, finer = heard(list(whole))
        assert by_character == lines
        assert finer[-1] == states[-1]
        assert heard([whole])[0] == lines


def test_a_warning_behind_a_bar_is_a_line() -> None:
    lines, _ = heard(recorded("warning"))
    assert lines[2].startswith("warning: Failed to hardlink files; falling back to full copy.")
    assert lines[3].startswith("         If the cache and target directories are on different filesystems")
    assert lines[5].startswith("Installed 2 packages")


def test_an_error_behind_bars_is_told_in_full() -> None:
    lines, states = heard(recorded("error"))
    archive = "cpython-3.12.16-20261110-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz"
    assert lines == [
        "error: Failed to install cpython-3.12.16-linux-x86_64-gnu",
        "  cause: Request failed after 1 retry in 1.2s",
        f"  cause: Failed to extract archive: {archive}",
        "  cause: Invalid tar file",
        "  cause: at byte 0: failed to read tar data",
        "  cause: failed to read tar data",
        "  cause: Invalid gzip header",
    ]
    assert states[-1] == (1024, 300_001)


def test_a_second_attempt_is_counted_once() -> None:
    lines, states = heard(recorded("broken-off"))
    assert [done for done, _ in states] == sorted(done for done, _ in states)
    assert states[-1] == (34_140, 34_140)  # of both files
    assert lines[2].startswith("Prepared 2 packages in ")


def test_what_is_not_understood_is_no_line_and_what_uv_is_at_is_told() -> None:
    talk = Talk(20)
    assert talk.feed("| Fetching 3 files  ") == []
    assert talk.feed("\r\x1b[2Kerror: no") == []
    assert (talk.label, talk.total) == ("| Fetching 3 files", None)
    assert talk.feed(" room\r\n") == ["error: no room"]
    assert talk.feed("in a pipe\nthere is no return") == ["in a pipe"]
    assert talk.end() == ["there is no return"]


SIZES = {"alpha": 200_000, "beta": 100_000}
SLOW_S = 0.008  # for each KiB: 100 kB/s and connection, more than 2 s in all


@pytest.fixture
def index() -> Iterator[Server]:
    with Server() as server:
        for name, size in SIZES.items():
            add(server, name, "1.0", size=size, pause=SLOW_S)
        yield server


def sizes(index: Server) -> list[int]:
    """Bytes of each wheel."""
    return [len(page.content) for path, page in index.pages.items() if path.endswith(".whl")]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return venv.create(tmp_path / "env", "{}.{}".format(*sys.version_info), "env", Sources(packages=()))


def variables(index: Server, tmp_path: Path) -> dict[str, str]:
    return {"UV_CACHE_DIR": str(tmp_path / "cache"), "UV_DEFAULT_INDEX": f"{index.url}/simple", "UV_HTTP_RETRIES": "0"}


def test_in_a_pipe_there_are_lines_with_bytes_total_and_time_left(
    index: Server, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dlenv.network.progress._EVERY", 0.5)  # seconds, where users get 10
    torch = Candidate(torch="2.14.1", torchvision="0.29.1", build="cpu", index=None)
    packages = [Package(name=name, version="1.0") for name in SIZES]
    size = sum(sizes(index))
    source = Source(candidate=torch, environment=variables(index, tmp_path))
    install.install(python, packages, source, tmp_path, size=size)
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if " left" in line]
    assert 2 <= len(told) <= 20
    for line in told:
        assert re.fullmatch(
            r"Preparing packages\.\.\. \([01]/2\): \d+\.\d kB of 302\.\d kB, \d+(\.\d)? (kB|bytes)/s, \d+ s left", line
        )
    assert [re.sub(r" in \S+$", "", line) for line in lines if line not in told][-2:] == [
        "Prepared 2 packages",
        "Installed 2 packages",
    ]
    assert "\x1b" not in "".join(lines)
    assert installed(tmp_path / "env") == {"alpha": "1.0", "beta": "1.0"}


SCRIPT = """
import sys
from dlenv.managers import uv
try:
    uv.run(["pip", "install", "--python", sys.argv[1], *sys.argv[2:]], show=True)
except uv.Failed as failed:
    sys.exit(f"failed: {failed}")
"""


def on_a_terminal(python: Path, environment: dict[str, str], *words: str) -> tuple[int, str]:
    """What a user sees on a terminal of 132 columns while uv installs there."""
    seen: list[str] = []
    environment = {**os.environ, **environment, "COLUMNS": "132"}
    command = [sys.executable, "-c", SCRIPT, str(python), *words]
    status = terminal.run(command, environment, Path.cwd(), seen.append)
    return status, re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", "".join(seen)).replace("\r", "\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_on_a_terminal_there_is_one_bar_with_bytes_total_speed_and_time_left(
    index: Server, python: Path, tmp_path: Path
) -> None:
    status, seen = on_a_terminal(python, variables(index, tmp_path), "alpha", "beta")
    assert status == 0, seen
    bars = re.findall(
        r"Preparing packages\.\.\. \(\d/2\) *[━╸╺ ]+ (\d+\.\d)/(\d+\.\d) kB +\d+\.\d kB/s +0:00:0\d", seen
    )
    assert len(bars) >= 2
    alpha, beta = sizes(index)
    # uv draws sizes in hundredths of a KiB, so that the last digit is not certain.
    totals = {float(total) for _, total in bars}
    assert all(min(abs(total - n / 1000) for n in (alpha, beta, alpha + beta)) < 0.11 for total in totals)
    assert float(bars[0][0]) < float(bars[-1][0])
    lines = [re.sub(r" in \S+$", "", line.strip()) for line in seen.splitlines()]
    assert "Prepared 2 packages" in lines
    assert "Installed 2 packages" in lines
    assert "+ alpha==1.0" not in lines


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_on_a_terminal_an_error_is_told_in_full(index: Server, python: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "requirements.txt"
    wrong = f"sha256:{'0' * 64}"
    wanted.write_text(f"beta==1.0 --hash={wrong}\n")
    status, seen = on_a_terminal(python, variables(index, tmp_path), "--require-hashes", "--requirement", str(wanted))
    assert status == 1
    lines = [line.strip() for line in seen.split("\n") if line]
    assert any(line.startswith("error: Failed to download `beta==1.0`") for line in lines)
    assert any("Hash mismatch for `beta==1.0`" in line for line in lines)
    assert wrong in lines
    assert any(re.fullmatch(r"sha256:[0-9a-f]{64}", line) and line != wrong for line in lines)
    assert lines[-1] == "failed: see what uv says above"


def test_where_there_are_no_terminals_a_pipe_does(
    index: Server, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pty

    def refuse() -> None:
        raise OSError("out of pty devices")

    monkeypatch.setattr(pty, "openpty", refuse)
    uv.run(["pip", "install", "--python", python, "beta"], variables(index, tmp_path), show=True)
    assert "Prepared 1 package in " in capsys.readouterr().err
    with pytest.raises(uv.Failed, match="nowhere was not found"):
        uv.run(["pip", "install", "--python", python, "nowhere"], variables(index, tmp_path), show=True)
