"""The queue of one model: any pattern of arrivals, played without threads or clocks, and the exact batches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlenv.errors import DeadlineExceeded, Overloaded, Unavailable
from dlenv_service.batcher import Answer, Batch, Batcher, Item

MS = 1_000_000
NEVER = 10**18


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def item(loop: asyncio.AbstractEventLoop, rows: int, first: int = 0, *, queued: int = 0, deadline: int = NEVER) -> Item:
    """Rows numbered from ``first`` on, so that a batch tells which rows it holds."""
    return Item(np.arange(first, first + rows).reshape(rows, 1), loop.create_future(), queued, deadline)


def held(batch: Batch) -> list[int]:
    return [int(number) for array in batch.arrays() for number in array[:, 0]]


def answer(batch: Batch) -> None:
    """Answer each row with its own number, as the device would."""
    for each, start, stop in batch.pieces:
        rows = each.rows[start:stop]
        each.deliver(Answer(rows.astype(np.float32), rows[:, 0]))


def taken(batcher: Batcher, now: int = 0) -> list[list[int]]:
    """Every batch that can be cut now."""
    batches = []
    while (batch := batcher.take(now)).count:
        assert batch.count == len(held(batch))
        answer(batch)
        batches.append(held(batch))
    return batches


@pytest.mark.parametrize(
    ("arrivals", "batches"),
    [
        ([], []),
        ([1], [[0]]),
        ([1, 1, 1], [[0, 1, 2]]),
        ([4], [[0, 1, 2, 3]]),
        ([1, 1, 1, 1, 1], [[0, 1, 2, 3], [4]]),
        ([3, 3], [[0, 1, 2, 3], [4, 5]]),
        ([10], [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
        ([1, 10, 1], [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
    ],
)
def test_a_batch_is_everything_that_waits_up_to_max_batch(
    loop: asyncio.AbstractEventLoop, arrivals: list[int], batches: list[list[int]]
) -> None:
    batcher = Batcher(max_batch=4, max_queue_rows=100)
    items = []
    for rows in arrivals:
        items.append(item(loop, rows, sum(each.count for each in items)))
        batcher.add(items[-1])
    assert batcher.rows == sum(arrivals)
    assert taken(batcher) == batches
    assert batcher.rows == 0
    for each in items:
        np.testing.assert_array_equal(each.outcome.result().labels, each.rows[:, 0])
        np.testing.assert_array_equal(each.outcome.result().probabilities, each.rows)


def test_what_arrives_during_a_batch_forms_the_next_one(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100)
    batcher.add(item(loop, 1, 0))
    assert held(batcher.take(0)) == [0]
    for first in (1, 2, 3):
        batcher.add(item(loop, 1, first))
    assert held(batcher.take(0)) == [1, 2, 3]


def test_whole_items_go_to_the_device_without_a_copy(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100)
    one, large = item(loop, 1), item(loop, 5)
    batcher.add(one)
    batcher.add(large)
    arrays = batcher.take(0).arrays()
    assert arrays[0] is one.rows
    assert arrays[1].base is large.rows.base


def test_a_large_request_is_answered_with_its_last_rows_only(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100)
    large = item(loop, 6)
    batcher.add(large)
    answer(batcher.take(7))
    assert not large.outcome.done()
    assert (batcher.rows, large.started) == (2, 7)
    answer(batcher.take(9))
    assert large.outcome.result().labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert large.started == 7


# Delay


def test_without_a_delay_a_batch_is_due_when_its_oldest_row_came(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100)
    assert batcher.due() is None
    batcher.add(item(loop, 1, queued=5 * MS))
    batcher.add(item(loop, 1, queued=6 * MS))
    assert batcher.due() == 5 * MS


def test_a_delay_counts_from_the_oldest_row_and_a_full_batch_ends_it(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100, max_delay_us=2000)
    batcher.add(item(loop, 1, queued=5 * MS))
    batcher.add(item(loop, 2, queued=6 * MS))
    assert batcher.due() == 7 * MS
    batcher.add(item(loop, 1, queued=6 * MS))
    assert batcher.due() == 5 * MS


def test_the_rest_of_a_split_request_keeps_its_place_in_time(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100, max_delay_us=2000)
    batcher.add(item(loop, 5, queued=5 * MS))
    batcher.take(5 * MS)
    batcher.add(item(loop, 1, queued=6 * MS))
    assert batcher.due() == 7 * MS


# Deadlines and cancellation


def test_late_items_are_dropped_and_told_before_anything_is_copied(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100)
    late, good = item(loop, 3, 0, deadline=10 * MS), item(loop, 2, 3, deadline=11 * MS)
    batcher.add(late)
    batcher.add(good)
    batch = batcher.take(10 * MS)
    assert held(batch) == [3, 4]
    assert batcher.rows == 0
    assert not late.outcome.done()  # its loop's thread does that
    with pytest.raises(DeadlineExceeded, match=r"10 ms have passed; send less at once or allow more time"):
        loop.run_until_complete(late.outcome)


def test_an_item_that_gets_late_between_its_parts_is_told_once(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100)
    late = item(loop, 6, deadline=10 * MS)
    batcher.add(late)
    first = batcher.take(0)
    assert batcher.take(10 * MS).count == 0
    with pytest.raises(DeadlineExceeded):
        loop.run_until_complete(late.outcome)
    answer(first)  # comes back from the device after that, and is nobody's any more
    assert batcher.rows == len(batcher) == 0


def test_expire_answers_late_items_while_no_batch_is_taken(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100)
    items = [item(loop, 2, deadline=deadline * MS) for deadline in (30, 10, 20)]
    for each in items:
        batcher.add(each)
    assert batcher.expire(9 * MS) == 0
    assert batcher.expire(20 * MS) == 2
    assert [each.outcome.done() for each in items] == [False, True, True]
    assert (len(batcher), batcher.rows) == (1, 2)
    assert all(isinstance(each.outcome.exception(), DeadlineExceeded) for each in items[1:])


def test_cancelled_items_are_dropped(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100)
    gone, stays = item(loop, 3, 0), item(loop, 2, 3)
    batcher.add(gone)
    batcher.add(stays)
    gone.outcome.cancel()
    assert taken(batcher) == [[3, 4]]
    assert batcher.rows == 0


def test_an_answer_to_a_cancelled_item_is_dropped(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100)
    gone = item(loop, 3)
    batcher.add(gone)
    batch = batcher.take(0)
    gone.outcome.cancel()
    answer(batch)
    gone.fail(ValueError())
    assert gone.outcome.cancelled()


def test_clear_answers_everything_that_waits(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, 100)
    items = [item(loop, 3), item(loop, 2)]
    for each in items:
        batcher.add(each)
    batcher.clear(Unavailable("stopping"))
    assert (len(batcher), batcher.rows, batcher.due()) == (0, 0, None)
    assert [str(each.outcome.exception()) for each in items] == ["stopping", "stopping"]


# The limit


def test_the_limit_counts_rows_and_a_refused_item_leaves_the_queue_as_it_was(
    loop: asyncio.AbstractEventLoop,
) -> None:
    batcher = Batcher(4, max_queue_rows=5)
    batcher.add(item(loop, 3, 0))
    with pytest.raises(Overloaded, match=r"3 rows wait and 3 more would pass its limit of 5; try again in 7 s") as full:
        batcher.add(item(loop, 3, 3), lambda rows: rows + 4)
    assert full.value.retry_after == 7
    batcher.add(item(loop, 2, 6))
    assert taken(batcher) == [[0, 1, 2, 6], [7]]


def test_rows_on_the_device_make_room(loop: asyncio.AbstractEventLoop) -> None:
    batcher = Batcher(4, max_queue_rows=5)
    batcher.add(item(loop, 5))
    batcher.take(0)
    batcher.add(item(loop, 4))
    with pytest.raises(Overloaded):
        batcher.add(item(loop, 1))


# Any pattern


@given(
    st.integers(1, 7),
    st.lists(st.tuples(st.sampled_from(["add", "add", "take", "cancel", "late"]), st.integers(1, 9)), max_size=40),
)
def test_every_row_is_answered_once_and_in_order_whatever_happens(
    max_batch: int, events: list[tuple[str, int]]
) -> None:
    loop = asyncio.new_event_loop()
    batcher = Batcher(max_batch, 10_000)
    items: list[Item] = []
    order: list[int] = []
    position = 0

    def take() -> bool:
        batch = batcher.take(now=10)
        assert batch.count <= max_batch
        order.extend(held(batch))
        answer(batch)
        return bool(batch.count)

    for event, number in events:
        if event == "take":
            take()
        elif event == "cancel" and items:
            items[number % len(items)].outcome.cancel()
        elif event in ("add", "late"):
            items.append(item(loop, number, position, deadline=NEVER if event == "add" else 10))
            position += number
            batcher.add(items[-1])
    while take():
        pass
    loop.run_until_complete(asyncio.sleep(0))  # late items are told by their loop

    assert order == sorted(set(order))
    assert (len(batcher), batcher.rows) == (0, 0)
    for each in items:
        assert each.outcome.done()
        if each.outcome.cancelled():
            continue
        if each.deadline == 10:
            assert isinstance(each.outcome.exception(), DeadlineExceeded)
        else:
            np.testing.assert_array_equal(each.outcome.result().labels, each.rows[:, 0])
    loop.close()
