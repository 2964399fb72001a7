"""A closed loop by wrk (https://github.com/wg/wrk): in C, so that it takes little of a machine that it shares.

wrk runs a Lua script, which this module writes: it rotates the requests, checks every answer and leaves the figures
as JSON. wrk does not say which connection an answer came on, so a script with several requests in flight can't tell
which of them it answers. What can be told from the counts alone is: an answer that no request expects, and more
answers of one kind than requests that expect it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from dlenv.bench.histogram import Histogram
from dlenv.bench.result import Latency, Result
from dlenv.bench.target import Address, Target, wires
from dlenv.errors import BenchError

_TIMEOUT = 10  # seconds for an answer; wrk keeps a counter of 8 bytes for each microsecond of it
_QUANTILES = 1000

# Globals of a thread can be read by done() in wrk's main state. ``told`` is how often each expected text was sent for,
# ``found`` how often it was found; both by the text's number.
_SCRIPT = """
local folder, count, rejected = %(folder)s, %(count)d, %(rejected)s
local threads, wires, expects, kinds = {}, {}, {}, {}

local function contents(name)
  local file = assert(io.open(folder .. "/" .. name, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init(args)
  local numbers = {}
  for i = 1, count do
    local expect = contents("expect-" .. i)
    if not numbers[expect] then
      table.insert(expects, expect)
      numbers[expect] = #expects
    end
    wires[i], kinds[i] = contents("request-" .. i), numbers[expect]
  end
  turn, answered, refused, unknown, statuses, told, found = number, 0, 0, 0, {}, {}, {}
  for i = 1, #expects do
    told[i], found[i] = 0, 0
  end
end

function request()
  turn = turn %% count + 1
  told[kinds[turn]] = told[kinds[turn]] + 1
  return wires[turn]
end

function response(status, headers, body)
  if status ~= 200 then
    if rejected[status] then
      refused = refused + 1
    else
      statuses[status] = (statuses[status] or 0) + 1
    end
    return
  end
  answered = answered + 1
  local kind, more = nil, false
  for i = 1, #expects do
    if string.find(body, expects[i], 1, true) then
      more = kind ~= nil
      kind = i
      if more then
        return -- it holds what several expect
      end
    end
  end
  if kind == nil then
    unknown = unknown + 1
  else
    found[kind] = found[kind] + 1
  end
end

function done(summary, latency, requests)
  local answers, refusals, wrong, failed = 0, 0, 0, {}
  local function fail(reason, times)
    if times > 0 then
      failed[reason] = (failed[reason] or 0) + times
    end
  end
  for _, thread in ipairs(threads) do
    answers, refusals = answers + thread:get("answered"), refusals + thread:get("refused")
    wrong = wrong + thread:get("unknown")
    local told, found = thread:get("told"), thread:get("found")
    for i = 1, #told do
      wrong = wrong + math.max(0, found[i] - told[i])
    end
    for status, times in pairs(thread:get("statuses")) do
      fail("status " .. status, times)
    end
  end
  fail("not connected", summary.errors.connect)
  fail("closed before the answer", summary.errors.read)
  fail("connection lost while sending", summary.errors.write)
  fail("no answer in %(timeout)d s", summary.errors.timeout)
  local reasons, quantiles = {}, {}
  for reason, times in pairs(failed) do
    table.insert(reasons, string.format('"%%s":%%d', reason, times))
  end
  for i = 1, %(quantiles)d do
    quantiles[i] = string.format("%%d", latency:percentile(100 * (i - 0.5) / %(quantiles)d))
  end
  local file = assert(io.open(folder .. "/figures", "w"))
  file:write(string.format(
    '{"answers":%%d,"refusals":%%d,"wrong":%%d,"failed":{%%s},"microseconds":%%d,"mean":%%.3f,"longest":%%d,' ..
    '"p50":%%d,"p90":%%d,"p99":%%d,"p999":%%d,"quantiles":[%%s]}',
    answers, refusals, wrong, table.concat(reasons, ","), summary.duration, latency.mean, latency.max,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9),
    table.concat(quantiles, ",")))
  file:close()
end
"""


class _Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What the script leaves; times in microseconds."""

    answers: int
    refusals: int
    wrong: int
    failed: dict[str, int]
    microseconds: int
    mean: float
    longest: int
    p50: int
    p90: int
    p99: int
    p999: int
    quantiles: list[int]


def unusable(where: Address) -> str | None:
    """Why wrk can't measure this, or None."""
    if shutil.which("wrk") is None:
        return "it is not installed (Debian and Ubuntu: apt-get install wrk)"
    if where.tls:
        return "it does not check certificates"
    return None


def measure(target: Target, connections: int, seconds: int, threads: int) -> Result:
    """``seconds`` whole seconds of a closed loop.

    Raises:
        BenchError: wrk failed.
    """
    with tempfile.TemporaryDirectory(prefix="dlenv-bench-") as name:
        folder = Path(name)
        for number, (wire, request) in enumerate(zip(wires(target), target.requests, strict=True), 1):
            (folder / f"request-{number}").write_bytes(wire)
            (folder / f"expect-{number}").write_bytes(request.expect)
        script = folder / "script.lua"
        rejected = "{" + ",".join(f"[{status:d}]=true" for status in target.rejected) + "}"
        values = {"folder": _quoted(name), "count": len(target.requests), "rejected": rejected}
        script.write_text(_SCRIPT % {**values, "timeout": _TIMEOUT, "quantiles": _QUANTILES}, encoding="utf-8")
        options = [f"-t{threads}", f"-c{connections}", f"-d{seconds}s", f"--timeout={_TIMEOUT}s", "-s", str(script)]
        cpu, output = _run(["wrk", *options, target.url], folder / "output")
        try:
            figures = msgspec.json.decode((folder / "figures").read_bytes(), type=_Figures)
        except (OSError, msgspec.DecodeError):
            raise BenchError(f"wrk left no figures: {output.strip()[-300:] or 'it said nothing'}") from None
    return _result(target, connections, threads, figures, cpu)


def _run(command: list[str], path: Path) -> tuple[float, str]:
    """Run a command to its end; returns the CPU seconds that it used, and what it said."""
    assert sys.platform != "win32"  # there is no wrk there
    with path.open("w+b") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)  # Popen does not tell what a process used
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
    output = path.read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        raise BenchError(f"wrk ended with exit code {process.returncode}: {output.strip()[-300:]}")
    return usage.ru_utime + usage.ru_stime, output


def _result(target: Target, connections: int, threads: int, figures: _Figures, cpu: float) -> Result:
    seconds = figures.microseconds / 1e6
    right = max(0, figures.answers - figures.wrong)
    histogram, latency = Histogram(), None
    if right and not figures.refusals and not figures.failed:
        # Each quantile stands for an equal share of the answers, in whole numbers.
        for index, quantile in enumerate(figures.quantiles):
            share = (index + 1) * right // _QUANTILES - index * right // _QUANTILES
            if share:
                histogram.add(quantile / 1e6, share)
        p50, p90, p99, p999 = (value / 1e6 for value in (figures.p50, figures.p90, figures.p99, figures.p999))
        latency = Latency(mean=figures.mean / 1e6, p50=p50, p90=p90, p99=p99, p999=p999, max=figures.longest / 1e6)
    return Result(
        url=target.url,
        mode="closed",
        tool="wrk",
        processes=threads,
        connections=connections,
        offered=None,
        seconds=seconds,
        answered=right,
        rejected=figures.refusals,
        wrong=figures.wrong,
        queued=0,
        failed=figures.failed,
        rate=right / seconds,
        latency=latency,
        histogram=histogram,
        rejection=None,
        client_cpu=cpu / seconds / threads,
        client_lag=None,
        saturated=None,
    )


def _quoted(text: str) -> str:
    """A Lua string, whatever is in it."""
    return '"' + "".join(f"\\{byte:03d}" for byte in os.fsencode(text)) + '"'
