"""``dlenv bench``: how many requests a service answers, how quickly, and whether rightly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, TypeVar

import click

from dlenv.bench import Result, Target, closed, open_loop
from dlenv.bench.local import serving
from dlenv.bench.service import Service
from dlenv.console import needs, print_json, print_table, say
from dlenv.credentials import key_option
from dlenv.errors import UsageError
from dlenv.interruption import unwinding

_COLUMNS = ("rows", "load", "requests/s", "rows/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "rejected")
_MOST_ROWS, _MOST_CONNECTIONS = 1 << 16, 10_000  # more are a slip of the finger
_Tool = Literal["auto", "own", "wrk"]
_Number = TypeVar("_Number", int, float)


@click.command(
    epilog="""\b
Examples:
  dlenv bench --local --model mnist-lenet --duration 2
  dlenv bench http://127.0.0.1:8000 --connections 1,32 --rows 1
  dlenv bench http://127.0.0.1:8000 --rate 500,1000 --plot bench.png"""
)
@click.argument("url", required=False)
@click.option("--local", is_flag=True, help="Start `dlenv serve --runtime local` for the measurement, and stop it.")
@click.option("--model", metavar="NAME", help="Model to ask.  [default: the first that is ready]")
@click.option("--connections", default="1,32,128", show_default=True, help="Requests in flight, one run for each.")
@click.option("--rate", help="Requests/s sent whatever the service does, one run for each; 1000,5000 for example.")
@click.option("--rows", default="1,64", show_default=True, help="Rows in each request, one series of runs for each.")
@click.option("--duration", type=float, default=5.0, show_default=True, metavar="S", help="Seconds of each run.")
@click.option("--processes", type=int, default=1, show_default=True, metavar="N", help="Processes that make the load.")
@click.option("--tool", type=click.Choice(["auto", "own", "wrk"]), default="auto", show_default=True, help="What asks.")
@key_option
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File with a key, sent as a bearer token.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw throughput and latencies.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@unwinding()
def command(
    url: str | None,
    local: bool,
    model: str | None,
    connections: str,
    rate: str | None,
    rows: str,
    duration: float,
    processes: int,
    tool: _Tool,
    key: str | None,
    api_key_file: Path | None,
    plot: Path | None,
    as_json: bool,
) -> int:
    """Measure the inference service at URL: any that speaks the Open Inference Protocol v2.

    With --connections, so many requests are always in flight; with --rate, requests are sent at random times, so many
    a second, on at most as many connections as the largest of --connections, and their latency counts from when they
    were due. The label of each input is asked for beforehand, and every answer must have it.

    Exit code 1 where answers were wrong, requests failed, or the load generator was itself the limit.
    """
    if local == (url is not None):
        raise UsageError("give either the service's URL, such as http://127.0.0.1:8000, or --local to start one")
    counts = _list("--connections", connections, int, _MOST_CONNECTIONS)
    sizes = _list("--rows", rows, int, _MOST_ROWS)
    rates = _list("--rate", rate, float, math.inf) if rate is not None else []
    if not 0 < duration < math.inf:
        raise UsageError(f"--duration {duration:g} can't be used; give a number of seconds above 0")
    if not 1 <= processes <= max(counts):
        raise UsageError(f"--processes {processes} can't be used; give 1 to {max(counts)}, the most --connections")
    if rates and tool == "wrk":
        raise UsageError("--tool wrk can't send at a given --rate; leave one of them out")
    if plot is not None:
        _check_picture(plot)

    def measure(target: Target, load: float) -> Result:
        if rates:
            return open_loop(target, rate=load, connections=max(counts), duration=duration, processes=processes)
        number = int(load)
        return closed(target, connections=number, duration=duration, processes=min(processes, number), tool=tool)

    if local:
        say("Starting dlenv serve...")
    with serving(model) if local else nullcontext(url or "") as where:
        service = Service(where, api_key_file, key)
        asked = service.model(model)
        results: list[tuple[int, float, Result]] = []
        for size in sizes:
            target = Target(url=service.infer_url(asked), requests=service.requests(asked, size))
            if not target.requests[0].expect:
                say(f"Note: {asked.name} has no output of integers; answers are counted, not checked.")
            for load in rates or counts:
                say(f"Measuring {asked.name}: {_count(size, 'row')} a request, {_load(load, bool(rates))}...")
                result = measure(target, load)
                results.append((size, load, result))
                if result.queued:
                    say(
                        f"Note: {result.queued} requests found all {result.connections} connections in use, and waited."
                    )
    problems = list(_problems(results))
    if as_json:
        measurements = [
            {"rows": size, "rows_per_second": result.rate * size, **result.to_json()} for size, _, result in results
        ]
        print_json(
            {"schema": 1, "url": where, "model": asked.name, "valid": not problems, "measurements": measurements}
        )
    else:
        table = [_line(size, load, result) for size, load, result in results]
        print_table((*_COLUMNS, "client CPU", "by", "state"), table, title=f"{asked.name} at {where}")
    if plot is not None:
        _draw(results, f"{asked.name} at {where}", plot)
    for problem in problems:
        say(f"Not valid: {problem}.")
    return int(bool(problems))


def _list(option: str, text: str, kind: Callable[[str], _Number], most: float) -> list[_Number]:
    """The numbers of an option, each once, in order."""
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value <= most and math.isfinite(value) for value in values):
        limit = f" up to {most:.0f}" if math.isfinite(most) else ""
        example = "1,32,128" if kind is int else "500,2500.5"
        raise UsageError(f"{option} {text} can't be used; give numbers above 0{limit} with commas, such as {example}")
    return list(dict.fromkeys(values))


def _check_picture(path: Path) -> None:
    """Raise before the measurement what would be raised after it."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise UsageError(f"--plot {path} is not the name of a PNG file; give one such as bench.png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: the folder {path.absolute().parent} does not exist; make it first")
    with needs("train"):
        import matplotlib  # noqa: F401


def _draw(results: Sequence[tuple[int, float, Result]], title: str, path: Path) -> None:
    from dlenv.bench.plot import draw

    sizes = list(dict.fromkeys(size for size, _, _ in results))
    series = [
        (size, [(_load(load, each.mode == "open"), each) for rows, load, each in results if rows == size])
        for size in sizes
    ]
    try:
        draw(series, title, path)
    except OSError as error:
        raise UsageError(f"--plot {path} can't be written: {error.strerror}") from None
    say(f"Wrote {path}.")


def _line(size: int, load: float, result: Result) -> list[str]:
    times = ["-"] * 5
    if seen := result.latency:
        times = [f"{value * 1000:.2f}" for value in (seen.p50, seen.p90, seen.p99, seen.p999, seen.max)]
    rates = [f"{result.rate:.0f}", f"{result.rate * size:.0f}"]
    state = "not valid" if result.problems() else "ok"
    cells = [*times, str(result.rejected), f"{result.client_cpu:.0%}", result.tool, state]
    return [str(size), _load(load, result.mode == "open"), *rates, *cells]


def _problems(results: Sequence[tuple[int, float, Result]]) -> Iterator[str]:
    for size, load, result in results:
        for problem in result.problems():
            yield f"{_count(size, 'row')}, {_load(load, result.mode == 'open')}: {problem}"


def _load(load: float, is_open: bool) -> str:
    return f"{load:g} requests/s" if is_open else _count(int(load), "connection")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
