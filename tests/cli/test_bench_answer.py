"""The load generator's reading of HTTP answers: in whatever pieces they come, and what it must not take for one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlenv.bench.answer import Answer, BadAnswer, Parser


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places) if a < b]


def read(data: bytes, cuts: list[int]) -> Answer:
    parser = Parser()
    parts = pieces(data, cuts)
    for part in parts[:-1]:
        assert parser.feed(part) is None
    answer = parser.feed(parts[-1])
    assert answer is not None
    return answer


def chunked(body: bytes, sizes: list[int], trailer: bytes) -> bytes:
    result, at = b"", 0
    while at < len(body):
        size = sizes[len(result) % len(sizes)]
        chunk = body[at : at + size]
        result += b"%x;name=value\r\n%s\r\n" % (len(chunk), chunk)
        at += size
    return result + b"0\r\n" + trailer + b"\r\n"


cuts = st.lists(st.integers(0, 10_000), max_size=6)
bodies = st.binary(max_size=300)
statuses = st.sampled_from([200, 429, 503, 500, 404])


@given(bodies, cuts, statuses, st.sampled_from([b"Content-Length", b"content-length", b"CONTENT-LENGTH"]))
def test_a_body_of_known_length(body: bytes, cuts: list[int], status: int, name: bytes) -> None:
    data = b"HTTP/1.1 %d Some words\r\nA: b\r\n%s:  %d \r\n\r\n%s" % (status, name, len(body), body)
    assert read(data, cuts) == Answer(status, body, reusable=True)


@given(
    bodies, cuts, st.lists(st.integers(1, 40), min_size=1, max_size=5), st.sampled_from([b"", b"Sum: 1\r\nB: 2\r\n"])
)
def test_a_body_in_chunks(body: bytes, cuts: list[int], sizes: list[int], trailer: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n" + chunked(body, sizes, trailer)
    assert read(data, cuts) == Answer(200, body, reusable=True)


@given(bodies, cuts)
def test_interim_answers_come_before_it(body: bytes, cuts: list[int]) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    data = interim + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    assert read(data, cuts) == Answer(200, body, reusable=True)


@given(bodies, cuts)
def test_a_body_that_the_connection_ends(body: bytes, cuts: list[int]) -> None:
    parser = Parser()
    for part in pieces(b"HTTP/1.0 200 OK\r\n\r\n" + body, cuts):
        assert parser.feed(part) is None
    assert parser.end() == Answer(200, body, reusable=False)


@given(st.lists(st.tuples(bodies, cuts), min_size=2, max_size=4))
def test_one_answer_after_another(answers: list[tuple[bytes, list[int]]]) -> None:
    parser = Parser()
    for index, (body, places) in enumerate(answers):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        data = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, [7], b"")
            if index % 2
            else head + body
        )
        *first, last = pieces(data, places)
        assert [parser.feed(part) for part in first] == [None] * len(first)
        assert parser.feed(last) == Answer(200, body, reusable=True)


@given(st.integers(1, 100), cuts)
def test_an_answer_that_is_cut_off(missing: int, cuts: list[int]) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(100)
    parser = Parser()
    for part in pieces(data[: len(data) - missing], cuts):
        assert parser.feed(part) is None
    with pytest.raises(BadAnswer, match="closed in the middle"):
        parser.end()


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close", False),
        (b"HTTP/1.1 200 OK\r\nCONNECTION: Close", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive", True),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive", True),
    ],
)
def test_whether_the_connection_takes_another_request(head: bytes, reusable: bool) -> None:
    assert read(head + b"\r\nContent-Length: 0\r\n\r\n", []).reusable is reusable


def test_an_answer_without_a_body() -> None:
    assert read(b"HTTP/1.1 204 No Content\r\n\r\n", []) == Answer(204, b"", reusable=True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "no HTTP/1.1 response"),
        (b"HTTP/2 200\r\n\r\n", "no HTTP/1.1 response"),
        (b"HTTP/1.1 OK\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", "more bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "longer than it says"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP", "more bytes"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000, "a head of more than"),
    ],
)
def test_what_is_no_answer(data: bytes, words: str) -> None:
    with pytest.raises(BadAnswer, match=words):
        Parser().feed(data)


def test_nothing_came() -> None:
    with pytest.raises(BadAnswer, match="closed before the answer"):
        Parser().end()
