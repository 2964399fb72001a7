"""A collector for tests: OpenTelemetry's protocol over HTTP, as spans that a test can look at."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


class Span(NamedTuple):
    """A span as it was received."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    began: int
    ended: int
    failed: bool
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]
    resource: dict[str, Any]


def _plain(attributes: list[KeyValue]) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}


class Receiver:
    """What has been received so far."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.paths: set[str] = set()

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        request = ExportTraceServiceRequest.FromString(body)
        for of_resource in request.resource_spans:
            resource = _plain(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    links = tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links)
                    times = (span.start_time_unix_nano, span.end_time_unix_nano, span.status.code == 2)
                    self.spans.append(
                        Span(span.name, *ids, span.kind, *times, links, _plain(span.attributes), resource)
                    )

    def wait(self, found: Callable[[list[Span]], bool], seconds: float = 20) -> list[Span]:
        """The spans, once they are what was waited for."""
        until = time.monotonic() + seconds
        while not found(self.spans):
            assert time.monotonic() < until, self.spans
            time.sleep(0.02)
        return list(self.spans)


@contextmanager
def receiver(host: str = "127.0.0.1") -> Iterator[tuple[str, Receiver]]:
    """A collector, and its endpoint."""
    it = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            it.take(self.path, gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}", it
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
