"""Traces by OpenTelemetry: a span of each request with its parts, and one of each batch, sent to a collector by OTLP.

========================  ====================================================================================
``POST /v2/models/...``   a request, from its head to its answer; child of the client's span (``traceparent``)
``parse``                 its body is read and decoded
``queue``                 its rows wait for the device
``compute``               its rows are on the device: the batches that they are in are linked to the request
``batch NAME``            a batch, a trace of its own, since it belongs to many requests
========================  ====================================================================================

Nothing of OpenTelemetry is imported unless a collector is configured. Spans are made when a request has been answered,
from times that were taken on the way: so nothing is handed from task to thread and back, and without a collector a
request costs a few comparisons more.

On Ray, requests that go through Serve can have Serve's spans as well, and calls between actors Ray's; both send them
where :func:`serve_processors` and :func:`ray_hook` say. The SDK reads all of its other variables (``OTEL_*``) itself.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import dlenv
from dlenv.errors import MissingExtra, RequestError
from dlenv_service import request_id
from dlenv_service.config import Settings, load_settings
from dlenv_service.http import Scope

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Link

    from dlenv_service.admission import Model
    from dlenv_service.batcher import Batch, Item
    from dlenv_service.device import Timing

__all__ = ["HEADERS", "Ran", "Tracing", "Work", "ray_hook", "serve_processors", "start"]

Headers = tuple[tuple[bytes, bytes], ...]

HEADERS = (b"traceparent", b"tracestate")  # W3C Trace Context
# Machines ask these every few seconds.
UNTRACED = frozenset(("/v2/health/live", "/v2/health/ready", "/metrics"))
# In the scope of a request: when its head was there, and what it asked of a model.
ARRIVED = "dlenv.arrived"
WORK = "dlenv.work"
# How long a stopping service waits for a collector that does not answer; Ray gives a replica 5 s more than it drains.
LAST_WORDS_S = 2.0


class Ran(NamedTuple):
    """A batch that rows ``start`` to ``stop`` of an item were in, and its span; a front gets it in a message."""

    start: int
    stop: int
    ended: int  # nanoseconds of time.perf_counter_ns
    trace: bytes  # ids as W3C Trace Context has them, 16 and 8 bytes
    span: bytes
    flags: int


class Work(NamedTuple):
    """What a request asked of a model."""

    model: Model
    item: Item


def start(settings: Settings) -> Tracing | None:
    """What makes the spans of this process; None where no collector is configured.

    Raises:
        MissingExtra: the packages are not installed.
    """
    return None if settings.otlp_endpoint is None else Tracing(settings.otlp_endpoint)


class Tracing:
    """Makes spans and hands them to the SDK, whose own thread sends them.

    Args:
        endpoint: of the collector, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` gives it; or the full URL of ``/v1/traces``.

    Raises:
        MissingExtra: the packages are not installed.
    """

    def __init__(self, endpoint: str) -> None:
        self._provider = _provider(endpoint)
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = self._provider.get_tracer("dlenv", dlenv.__version__)

    def arrived(self, scope: Scope) -> None:
        """Note when a request came."""
        scope[ARRIVED] = time.perf_counter_ns()

    def asked(self, scope: Scope, model: Model, item: Item) -> None:
        """Note what it asked for."""
        scope[WORK] = Work(model, item)

    def answered(self, scope: Scope, status: int) -> Headers:
        """Make the spans of a request; the header of its answer that names them."""
        work: Work | None = scope.pop(WORK, None)  # not kept: a connection may be idle for long, and rows are large
        if scope["path"] in UNTRACED:
            return ()
        sent = [(name, value) for name, value in scope["headers"] if name in HEADERS]
        return self.request(
            scope["method"], scope["path"], status, scope[ARRIVED], work, request_id.of(scope), tuple(sent)
        )

    def request(
        self, method: str, path: str, status: int, began: int, work: Work | None, request: bytes, sent: Headers = ()
    ) -> Headers:
        """Make the spans of a request that was answered just now.

        Args:
            method: of the request.
            path: of the request.
            status: of the answer.
            began: when it came, in nanoseconds of ``time.perf_counter_ns``.
            work: what it asked of a model.
            request: its id.
            sent: the client's ``traceparent`` and ``tracestate``.
        """
        trace, now = self._trace, time.perf_counter_ns()
        epoch = time.time_ns() - now
        route = _route(method, path)
        attributes: dict[str, Any] = {
            "http.request.method": method[:20],
            "url.path": path[:200],
            "http.response.status_code": status,
            "dlenv.request_id": request.decode("ascii"),
        }
        if route is not None:
            attributes["http.route"] = route
        if work is not None:
            attributes |= _model(work.model.name, work.model.version) | {"dlenv.rows": work.item.count}
        parts = _parts(began, now, work.item) if work is not None else ()
        span = self._tracer.start_span(
            f"{method[:20]} {route}" if route is not None else method[:20],
            self._context(sent),
            trace.SpanKind.SERVER,
            attributes,
            [self._link(ran) for ran in work.item.ran] if work is not None else (),
            epoch + began,
        )
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(trace.StatusCode.ERROR)
        parent = trace.set_span_in_context(span)
        for name, first, last in parts if span.is_recording() else ():
            self._tracer.start_span(name, parent, start_time=epoch + first).end(epoch + last)
        span.end(epoch + now)
        context = span.get_span_context()
        return ((HEADERS[0], b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)),)

    def batch(self, name: str, version: int, batch: Batch, timing: Timing | None) -> None:
        """Make the span of a batch, and tell its items; without ``timing`` it has failed."""
        trace, now = self._trace, time.perf_counter_ns()
        epoch = time.time_ns() - now
        attributes = _model(name, version) | {
            "dlenv.rows": batch.count,
            "dlenv.requests": sum(item.requests for item, _, _ in batch.pieces),
        }
        ended = now
        if timing is not None:
            ended = min(now, batch.started + timing.input + timing.infer + timing.output)
            for part in timing.__slots__:
                attributes[f"dlenv.{part}_us"] = getattr(timing, part) // 1000
        # An empty context: whatever else traces in this process is not its parent.
        span = self._tracer.start_span(
            f"batch {name}", self._context(), attributes=attributes, start_time=epoch + batch.started
        )
        if timing is None:
            span.set_status(trace.StatusCode.ERROR)
        span.end(epoch + ended)
        context = span.get_span_context()
        ids = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big"), int(context.trace_flags)
        for item, start, stop in batch.pieces:
            item.ran = (*item.ran, Ran(start, stop, ended, *ids))

    def close(self) -> None:
        """Send what is left, for as long as the collector may take for it."""
        # The SDK's own limit is 30 s, and can't be set from here.
        closing = threading.Thread(target=self._provider.shutdown, name="dlenv-traces", daemon=True)
        closing.start()
        closing.join(LAST_WORDS_S)

    def _link(self, ran: Ran) -> Link:
        trace = self._trace
        ids = int.from_bytes(ran.trace, "big"), int.from_bytes(ran.span, "big")
        context = trace.SpanContext(*ids, is_remote=False, trace_flags=trace.TraceFlags(ran.flags))
        link: Link = trace.Link(context)
        return link

    def _context(self, sent: Headers = ()) -> Any:
        """What the client says of its span; an empty context where it says nothing, or more than one thing."""
        from opentelemetry.context import Context

        names = [name for name, _ in sent]
        if names.count(HEADERS[0]) != 1:
            return Context()
        carrier: dict[str, str] = {}
        for name, value in sent:  # several tracestate headers are one list
            key = name.decode("latin-1")
            carrier[key] = ",".join(filter(None, (carrier.get(key), value.decode("latin-1"))))
        return self._propagator.extract(carrier, Context())


def serve_processors() -> list[SpanProcessor]:
    """Where Ray Serve sends its spans; ``RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH`` names this function.

    Raises:
        MissingExtra: the packages are not installed.
    """
    endpoint = load_settings(environ=_variables()).otlp_endpoint
    return [] if endpoint is None else [_processor(endpoint)]


def ray_hook() -> None:
    """Where Ray sends spans of calls between actors; ``ray start --tracing-startup-hook`` names this function.

    Raises:
        MissingExtra: the packages are not installed.
    """
    endpoint = load_settings(environ=_variables()).otlp_endpoint
    if endpoint is not None:
        provider = _provider(endpoint)
        from opentelemetry import trace

        trace.set_tracer_provider(provider)


def _variables() -> dict[str, str]:
    """The variables that say where the collector is; others may be wrong, which is not Ray's business."""
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_") or "_OTLP_" in name}


def _provider(endpoint: str) -> TracerProvider:
    processor = _processor(endpoint)
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider

    own: dict[str, Any] = {"service.name": "dlenv", "service.version": dlenv.__version__, "process.pid": os.getpid()}
    # Resource.create lets our attributes win over those of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
    provider = TracerProvider(resource=Resource.create({**own, **OTELResourceDetector().detect().attributes}))
    provider.add_span_processor(processor)
    return provider


def _processor(endpoint: str) -> SpanProcessor:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"traces for {endpoint} need {error.name}, which is not installed: pip install 'dlenv[otel]', or leave "
            "--otlp-endpoint and OTEL_EXPORTER_OTLP_ENDPOINT out"
        ) from None
    path = "/v1/traces"
    base = endpoint.rstrip("/")
    return BatchSpanProcessor(OTLPSpanExporter(base if base.endswith(path) else f"{base}{path}"))


def _model(name: str, version: int) -> dict[str, Any]:
    return {"dlenv.model": name, "dlenv.version": version}


def _parts(began: int, ended: int, item: Item) -> list[tuple[str, int, int]]:
    """Name, begin and end of what a request spent its time on."""
    parts = [("parse", began, item.queued), ("queue", item.queued, item.started or ended)]
    if item.started:
        # Without a batch that it knows of, an item is computed when its answer is there.
        parts.append(("compute", item.started, item.ran[-1].ended if item.ran else ended))
    return parts


def _route(method: str, path: str) -> str | None:
    """The path as the table of routes has it; None where it isn't there."""
    from dlenv_service import routes  # which imports the handlers

    try:
        handler, arguments = routes.resolve(method, path)
    except RequestError:
        return None
    return next(
        route.path for route in routes.ROUTES if route.handler is handler and route.path.count("{") == len(arguments)
    )
