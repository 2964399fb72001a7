"""What the service tells of itself and of its models: health, metadata, configuration, statistics, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlenv import __version__
from dlenv_models.architectures import parameters
from dlenv_service.http import Receive, Response, Scope, header, json_response

if TYPE_CHECKING:
    from dlenv_service.asgi import Service
    from dlenv_service.served import Served

__all__ = ["card", "live", "metrics", "model", "model_config", "model_ready", "models", "ready", "server", "statistics"]

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
# The protocol asks for <project>_<format>: what runs the model, and what it is kept in.
PLATFORM = "pytorch_safetensors"


async def live(service: Service, scope: Scope, receive: Receive) -> Response:
    """Answer that the process runs."""
    return json_response({"live": True})


async def ready(service: Service, scope: Scope, receive: Receive) -> Response:
    """Answer whether every model is warm: 200 or 503."""
    # The protocol's text names the field of this answer "live" too; both are there.
    return json_response({"live": True, "ready": service.ready}, 200 if service.ready else 503)


async def server(service: Service, scope: Scope, receive: Receive) -> Response:
    """Answer with the server's metadata."""
    return json_response({"name": "dlenv", "version": __version__, "extensions": EXTENSIONS})


async def model(service: Service, scope: Scope, receive: Receive, model: str, version: str | None = None) -> Response:
    """Answer with a model's inputs and outputs."""
    served = service.host.find(model, version)
    versions = [str(each) for each in service.host.versions(model)] if version is None else [str(served.version)]
    return json_response(
        {
            "name": served.name,
            "versions": versions,
            "platform": PLATFORM,
            "inputs": [_tensor(tensor.name, tensor.datatype, tensor.shape) for tensor in served.manifest.inputs],
            "outputs": [_tensor(tensor.name, tensor.datatype, tensor.shape) for tensor in served.manifest.outputs],
        }
    )


def _tensor(name: str, datatype: str, shape: tuple[int, ...]) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


async def model_ready(
    service: Service, scope: Scope, receive: Receive, model: str, version: str | None = None
) -> Response:
    """Answer whether a model is loaded and the service takes requests."""
    served = service.host.find(model, version)
    return json_response({"name": served.name, "ready": service.ready}, 200 if service.ready else 503)


async def model_config(
    service: Service, scope: Scope, receive: Receive, model: str, version: str | None = None
) -> Response:
    """Answer with Triton's ``ModelConfig``, the parts that are true here; perf_analyzer reads it."""
    served = service.host.find(model, version)
    settings = service.settings
    return json_response(
        {
            "name": served.name,
            "platform": PLATFORM,
            "backend": "pytorch",
            "version_policy": {"specific": {"versions": service.host.versions(model)}},
            "max_batch_size": settings.max_rows,
            "input": [
                {"name": tensor.name, "data_type": _config_type(tensor.datatype), "dims": list(tensor.shape[1:])}
                for tensor in served.manifest.inputs
            ],
            "output": [
                # A dimension list must not be empty in Triton's schema: one label per row is a list of one.
                {
                    "name": tensor.name,
                    "data_type": _config_type(tensor.datatype),
                    "dims": list(tensor.shape[1:]) or [1],
                    **({} if tensor.shape[1:] else {"reshape": {"shape": []}}),
                }
                for tensor in served.manifest.outputs
            ],
            "parameters": {"engine": {"string_value": served.lane.runner.name}},
            "instance_group": [{"name": served.name, "kind": _kind(service), "count": 1}],
            "dynamic_batching": {
                "preferred_batch_size": [served.lane.batcher.max_batch],
                "max_queue_delay_microseconds": settings.max_delay_us,
                "default_queue_policy": {
                    "max_queue_size": settings.max_queue_rows,
                    "default_timeout_microseconds": settings.deadline_ms * 1000,
                },
            },
        }
    )


def _config_type(datatype: str) -> str:
    return f"TYPE_{datatype}"


def _kind(service: Service) -> str:
    device = service.host.device
    return "KIND_GPU" if device is not None and device.type == "cuda" else "KIND_CPU"


async def models(service: Service, scope: Scope, receive: Receive) -> Response:
    """Answer with the models that are loaded, and which versions of each."""
    names = sorted({served.name for served in service.host.loaded()})
    return json_response({"models": [{"name": name, "versions": service.host.versions(name)} for name in names]})


async def card(service: Service, scope: Scope, receive: Receive, model: str, version: str | None = None) -> Response:
    """Answer with all that is known of a model: its manifest, and how it is run here."""
    served = service.host.find(model, version)
    architecture = served.manifest.architecture
    return json_response(
        {
            **served.manifest.to_json(),
            "parameters": parameters(architecture.name, architecture.arguments),
            "served": {
                "engine": served.lane.runner.name,
                "device": str(service.host.device),
                "memory_bytes": served.memory_bytes,
                "max_batch": served.lane.batcher.max_batch,
                "max_rows": service.settings.max_rows,
            },
        }
    )


async def statistics(
    service: Service, scope: Scope, receive: Receive, model: str | None = None, version: str | None = None
) -> Response:
    """Answer with Triton's statistics of one version, of every version of a model, or of everything."""
    chosen: list[Served] = service.host.loaded()
    if model is not None:
        newest = service.host.find(model, version)
        chosen = [newest] if version is not None else [each for each in chosen if each.name == model]
    return json_response({"model_stats": [each.statistics.to_json(each.name, each.version) for each in chosen]})


async def metrics(service: Service, scope: Scope, receive: Receive) -> Response:
    """Answer with everything counted, for Prometheus."""
    kind, body = service.metrics.render(header(scope, b"accept") or "")
    return Response(200, [(b"content-type", kind.encode())], body)
