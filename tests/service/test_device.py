"""The device's thread with runners of its own kind: order, failures, jobs, its end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from dlenv.errors import DeadlineExceeded, ModelFailed
from dlenv_service.batcher import Answer, Array, Batcher, Item
from dlenv_service.device import Device, Lane, Timing
from dlenv_service.statistics import Statistics


class Doubles:
    """Answers each number with twice the number, and remembers every batch."""

    def __init__(self, before: Callable[[list[float]], None] = lambda rows: None) -> None:
        self.batches: list[list[float]] = []
        self.before = before

    def run(self, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
        rows = np.concatenate(pieces)
        self.batches.append(rows[:, 0].tolist())
        self.before(self.batches[-1])
        return Answer(rows * 2, rows[:, 0].astype(np.int64)), Timing(1, 2, 3)


def lane(runner: Doubles, max_batch: int = 4, delay_us: int = 0) -> Lane:
    return Lane(Batcher(max_batch, 1000, delay_us), runner, Statistics())


def ask(lane: Lane, *numbers: float, ago: int = 0) -> asyncio.Future[Answer]:
    now = time.perf_counter_ns()
    rows = np.array(numbers, np.float32).reshape(-1, 1)
    item = Item(rows, asyncio.get_running_loop().create_future(), now - ago, now + 10**11)
    lane.batcher.add(item)
    return item.outcome


@asynccontextmanager
async def a_device() -> AsyncIterator[Device]:
    device = Device(asyncio.get_running_loop(), "test")
    try:
        yield device
    finally:
        await asyncio.to_thread(device.close)
        assert not device._thread.is_alive()


@asynccontextmanager
async def held(device: Device) -> AsyncIterator[None]:
    """The device is busy with a job for the length of the block, so that requests wait."""
    release = threading.Event()
    device.call(lambda: release.wait(10))
    try:
        yield
    finally:
        release.set()


def test_what_waits_while_the_device_is_busy_becomes_one_batch() -> None:
    async def main() -> None:
        runner = Doubles()
        one = lane(runner)
        async with a_device() as device:
            device.add(one)
            async with held(device):
                asked = [ask(one, n) for n in (1, 2, 3)] + [ask(one, 4, 5)]
                device.notify()
            answers = await asyncio.gather(*asked)
        assert runner.batches == [[1, 2, 3, 4], [5]]
        assert [answer.probabilities.ravel().tolist() for answer in answers] == [[2], [4], [6], [8, 10]]
        assert (one.statistics.batches, one.statistics.rows) == (2, 5)

    asyncio.run(main())


def test_the_lane_whose_oldest_row_waits_longest_goes_first() -> None:
    async def main() -> None:
        order: list[str] = []
        lanes = {name: lane(Doubles(lambda rows, name=name: order.append(name))) for name in "abc"}
        async with a_device() as device:
            for each in lanes.values():
                device.add(each)
            async with held(device):
                asked = [
                    ask(lanes["a"], 1, ago=1_000_000),
                    ask(lanes["b"], 1, ago=3_000_000),
                    ask(lanes["c"], 1, ago=2_000_000),
                    ask(lanes["a"], 1, ago=9_000_000),  # not its lane's oldest: that came first
                ]
                device.notify()
            await asyncio.gather(*asked)
        assert order == ["b", "c", "a"]

    asyncio.run(main())


def test_a_failing_batch_fails_alone_and_the_thread_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        def explode(rows: list[float]) -> None:
            if 13 in rows:
                raise RuntimeError("thirteen")

        one, other = lane(Doubles(explode), max_batch=2), lane(Doubles())
        async with a_device() as device:
            device.add(one)
            device.add(other)
            async with held(device):
                asked = [ask(one, 1), ask(one, 13), ask(one, 2), ask(one, 3), ask(other, 13)]
                device.notify()
            results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in results[:2]] == [ModelFailed, ModelFailed]
        assert "thirteen" in caplog.text  # for who runs the service
        assert [each.probabilities.ravel().tolist() for each in results[2:]] == [[4], [6], [26]]
        assert (one.statistics.failed_batches, other.statistics.failed_batches) == (1, 0)
        assert one.failures == 0  # in a row: the batch after it did not fail
        assert one.running == 0

    asyncio.run(main())


def test_a_delay_gathers_rows_on_an_idle_device_and_a_full_batch_ends_it() -> None:
    async def main() -> None:
        runner = Doubles()
        one = lane(runner, max_batch=2, delay_us=1_000_000)
        async with a_device() as device:
            device.add(one)
            first = ask(one, 1)
            device.notify()
            await asyncio.sleep(0.05)
            assert not first.done()
            second = ask(one, 2)
            device.notify()
            await asyncio.wait_for(asyncio.gather(first, second), 0.5)
        assert runner.batches == [[1, 2]]

    asyncio.run(main())


def test_jobs_run_in_the_devices_thread_and_give_back_what_they_return_or_raise() -> None:
    async def main() -> None:
        async with a_device() as device:
            name = await asyncio.wrap_future(device.call(lambda: threading.current_thread().name))
            with pytest.raises(ZeroDivisionError):
                await asyncio.wrap_future(device.call(lambda: 1 // 0))
            assert name == "dlenv-test"

    asyncio.run(main())


def test_a_cancelled_job_is_passed_over_and_the_thread_lives_on() -> None:
    async def main() -> None:
        ran: list[int] = []
        async with a_device() as device:
            async with held(device):
                doomed = device.call(lambda: ran.append(1))
                assert doomed.cancel()
            await asyncio.wrap_future(device.call(lambda: ran.append(2)))
        assert ran == [2]

    asyncio.run(main())


def test_each_request_counts_the_time_of_its_whole_batch() -> None:
    async def main() -> None:
        one = lane(Doubles(), max_batch=3)
        async with a_device() as device:
            async with held(device):
                device.add(one)
                asked = [ask(one, 1), ask(one, 2), ask(one, 3, 4)]  # two batches: three rows, and the last one
            await asyncio.gather(*asked)
        counted = one.statistics.to_json("x", 1)["inference_stats"]
        assert counted["compute_infer"] == {"count": 3, "ns": 4 * 2}  # type: ignore[index]
        assert [each["batch_size"] for each in one.statistics.to_json("x", 1)["batch_stats"]] == [1, 3]  # type: ignore[attr-defined]

    asyncio.run(main())


def test_a_late_request_on_the_device_is_answered_while_its_batch_runs_on() -> None:
    async def main() -> None:
        release = threading.Event()
        slow = lane(Doubles(before=lambda _: release.wait(10) and None))
        async with a_device() as device:
            async with held(device):
                device.add(slow)
                late, patient = ask(slow, 1.0), ask(slow, 2.0)
            while slow.running < 2:
                await asyncio.sleep(0.001)
            assert slow.batch is not None
            slow.batch.pieces[0].item.deadline = time.perf_counter_ns()
            slow.expire(time.perf_counter_ns())
            with pytest.raises(DeadlineExceeded, match="not answered within the deadline"):
                await late
            assert not patient.done()
            release.set()
            assert (await patient).labels.tolist() == [2]

    asyncio.run(main())


def test_close_cancels_jobs_that_never_ran() -> None:
    async def main() -> None:
        device = Device(asyncio.get_running_loop(), "test")
        release = threading.Event()
        device.call(lambda: release.wait(10))
        late = device.call(lambda: None)
        closing = asyncio.create_task(asyncio.to_thread(device.close))
        await asyncio.sleep(0.05)
        release.set()
        await closing
        with pytest.raises(concurrent.futures.CancelledError):
            late.result(0)

    asyncio.run(main())


def test_busy_for_is_how_long_the_running_batch_takes() -> None:
    async def main() -> None:
        release = threading.Event()
        one = lane(Doubles(lambda rows: release.wait(10)))
        async with a_device() as device:
            device.add(one)
            assert device.busy_for() == 0
            asked = ask(one, 1, 2)
            device.notify()
            await asyncio.sleep(0.1)
            assert 0.02 < device.busy_for() < 5
            assert one.running == 2
            release.set()
            await asked
            await asyncio.wrap_future(device.call(lambda: None))  # the batch is behind it
            assert (device.busy_for(), one.running) == (0, 0)

    asyncio.run(main())


def test_a_removed_lane_is_served_no_more() -> None:
    async def main() -> None:
        one, other = lane(Doubles()), lane(Doubles())
        async with a_device() as device:
            device.add(one)
            device.add(other)
            device.remove(one)
            left = ask(one, 1)
            answered = ask(other, 1)
            device.notify()
            await answered
            assert not left.done()

    asyncio.run(main())


def test_cancelled_rows_are_not_computed() -> None:
    async def main() -> None:
        runner = Doubles()
        one = lane(runner)
        async with a_device() as device:
            device.add(one)
            async with held(device):
                gone, stays = ask(one, 1), ask(one, 2)
                gone.cancel()
                device.notify()
            await stays
        assert runner.batches == [[2]]

    asyncio.run(main())
