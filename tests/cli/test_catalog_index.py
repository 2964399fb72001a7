"""Reading what indexes offer, from servers that lay it out in each of their ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from http_server import Page, Server, dead_address, silent_address

from dlenv.catalog.index import find, wheels
from dlenv.errors import Unreachable

HTML = {"Content-Type": "text/html"}
CU126 = "torch-2.14.1%2Bcu126-cp311-cp311-manylinux_2_28_x86_64.whl"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def page(body: str, **more: Any) -> Page:
    return Page(f"<!DOCTYPE html><html><body>{body}</body></html>".encode(), headers=HTML, **more)


def test_a_simple_page(server: Server) -> None:
    server.pages["/whl/cu126/torch/"] = page(
        f'<a href="/whl/cu126/{CU126}#sha256=abc" data-requires-python="&gt;=3.10">torch-2.14.1&#43;cu126</a>'
    )
    (wheel,) = find(f"{server.url}/whl/cu126", "torch")
    assert wheel.url == f"{server.url}/whl/cu126/{CU126}"
    assert wheel.filename == "torch-2.14.1+cu126-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert (wheel.project, wheel.version, wheel.local) == ("torch", "2.14.1", "cu126")
    assert (wheel.sha256, wheel.requires_python, wheel.yanked) == ("abc", ">=3.10", False)
    assert wheel.tags == {("cp311", "cp311", "manylinux_2_28_x86_64")}


@pytest.mark.parametrize("written", ["torch-2.14.1+cu126", "torch-2.14.1%2Bcu126", "torch-2.14.1&#43;cu126"])
def test_a_plus_may_be_written_in_three_ways(server: Server, written: str) -> None:
    server.pages["/torch/"] = page(f'<a href="{written}-cp311-cp311-win_amd64.whl">x</a>')
    (wheel,) = find(server.url, "torch")
    assert (wheel.version, wheel.local) == ("2.14.1", "cu126")


@pytest.mark.parametrize(
    ("base", "href", "path"),
    [
        ("", "../../files/torch-1-py3-none-any.whl", "/files/torch-1-py3-none-any.whl"),
        ("", "/torch-1-py3-none-any.whl", "/torch-1-py3-none-any.whl"),
        ("", "torch-1-py3-none-any.whl", "/simple/torch/torch-1-py3-none-any.whl"),
        ('<base href="/other/">', "torch-1-py3-none-any.whl", "/other/torch-1-py3-none-any.whl"),
    ],
)
def test_relative_links(server: Server, base: str, href: str, path: str) -> None:
    server.pages["/simple/torch/"] = page(f'{base}<a href="{href}#sha256=1">x</a>')
    (wheel,) = find(f"{server.url}/simple/", "torch")
    assert wheel.url == server.url + path


def test_links_are_relative_to_where_a_redirect_leads(server: Server) -> None:
    server.pages["/torch/"] = Page(status=302, location=f"{server.url}/elsewhere/torch/")
    server.pages["/elsewhere/torch/"] = page('<a href="torch-1-py3-none-any.whl">x</a>')
    assert [wheel.url for wheel in find(server.url, "torch")] == [
        f"{server.url}/elsewhere/torch/torch-1-py3-none-any.whl"
    ]


def test_a_json_page(server: Server) -> None:
    files = [
        {
            "filename": "torch-2.0-py3-none-any.whl",
            "url": "../f/torch-2.0-py3-none-any.whl",
            "hashes": {"sha256": "12"},
        },
        {
            "filename": "torch-2.1-py3-none-any.whl",
            "url": "t",
            "hashes": {},
            "yanked": "broken",
            "requires-python": ">=3",
        },
        {"filename": "torch-2.1.tar.gz", "url": "t", "hashes": {}},
    ]
    content = json.dumps({"meta": {"api-version": "1.1"}, "name": "torch", "files": files}).encode()
    server.pages["/torch/"] = Page(content, headers={"Content-Type": "application/vnd.pypi.simple.v1+json"})
    first, second = find(server.url, "torch")
    assert (first.url, first.sha256, first.yanked) == (f"{server.url}/f/torch-2.0-py3-none-any.whl", "12", False)
    assert (second.sha256, second.yanked, second.requires_python) == (None, True, ">=3")
    assert "json" in server.requests[0].headers["Accept"]


def test_a_flat_listing(server: Server) -> None:
    """As Aliyun has it: one folder with the files of every project."""
    server.pages["/pytorch-wheels/cu126/"] = page(
        f'<a href="../">..</a><a href="{CU126}">x</a>'
        '<a href="torchvision-0.29.1%2Bcu126-cp311-cp311-win_amd64.whl">y</a>'
        '<a href="torch-2.0.tar.gz">z</a><a href="torch-broken.whl">b</a><a href="http://[">c</a><a>d</a>'
    )
    (wheel,) = find(f"{server.url}/pytorch-wheels/cu126/", "torch")
    assert wheel.url == f"{server.url}/pytorch-wheels/cu126/{CU126}"
    assert {wheel.project for wheel in wheels(f"{server.url}/pytorch-wheels/cu126/")} == {"torch", "torchvision"}


def test_yanked_in_html(server: Server) -> None:
    server.pages["/torch/"] = page('<a href="torch-1-py3-none-any.whl" data-yanked="">x</a>')
    assert [wheel.yanked for wheel in find(server.url, "torch")] == [True]


@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_page_has_no_wheels(server: Server, status: int) -> None:
    """PyTorch's bucket answers 403 for what does not exist."""
    server.pages["/torch/"] = server.pages["/"] = page("no", status=status)
    assert find(server.url, "torch") == ()


def test_what_is_no_index(server: Server) -> None:
    server.pages["/torch/"] = page("", status=500)
    with pytest.raises(Unreachable, match="/torch/ answers HTTP 500"):
        find(server.url, "torch")
    server.pages["/torch/"] = Page(b"[1, 2]", headers={"Content-Type": "application/json"})
    with pytest.raises(Unreachable, match="is no page of a package index"):
        find(server.url, "torch")
    server.pages["/torch/"] = Page(b"\xff\x00<a href=", headers=HTML)
    server.pages["/"] = page("")
    assert find(server.url, "torch") == ()


def test_nobody_there() -> None:
    with pytest.raises(Unreachable, match="can't be reached"):
        find(dead_address(), "torch")
    with pytest.raises(Unreachable, match="in time"), silent_address() as url:
        find(url, "torch", timeout=0.3)


def test_an_endless_page_ends(server: Server) -> None:
    server.pages["/torch/"] = Page(b"x" * 1000, endless=True, headers=HTML, length=False)
    with pytest.raises(Unreachable, match=r"which no index does|did not send"):
        find(server.url, "torch", timeout=20)
