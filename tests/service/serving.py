"""Small untrained models, and the service on a real port in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
import uvicorn

from dlenv_models import architectures, zoo
from dlenv_models.manifest import Architecture, DataInfo, Metrics, Preprocessing, Training
from dlenv_models.repository import Repository
from dlenv_service.asgi import Service
from dlenv_service.config import Settings
from dlenv_service.fronts.keeper import Fronts
from dlenv_service.listener import bind
from dlenv_service.server import configure

torch.set_num_threads(1)

DIGITS = [str(digit) for digit in range(10)]


def publish(root: Path, name: str, architecture: str = "linear", *, seed: int = 0, **arguments: object) -> None:
    """Publish an untrained model; `arguments` are the architecture's, (1, 28, 28) and ten classes by default."""
    given = {"input_shape": [1, 28, 28], "classes": 10, **arguments}
    described = Architecture(architecture, architectures.complete(architecture, given))
    torch.manual_seed(seed)
    module = zoo.build(architecture, **given)
    classes = DIGITS[: int(given["classes"])]  # type: ignore[call-overload]
    shape: list[int] = given["input_shape"]  # type: ignore[assignment]
    channels, scale = shape[0], 1 / 255 if len(shape) == 3 else 1.0
    Repository(root, create=True).publish(
        name,
        module,
        architecture=described,
        classes=classes,
        preprocessing=Preprocessing(scale, (0.1,) * channels, (0.5,) * channels),
        data=DataInfo("none", "made by a test", "Apache-2.0", 1, 0, len(classes)),
        # Every row called class 0: the manifest's parts must agree with each other.
        metrics=Metrics(1 / len(classes), 1.0, tuple((1, *[0] * (len(classes) - 1)) for _ in classes)),
        training=Training("made by a test", seed, "2026-01-01T00:00:00Z", torch.__version__, {}),
    )


@dataclass
class Running:
    """A service that runs, and how to reach it."""

    service: Service
    url: str
    client: httpx.Client
    loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def run(self, coroutine: object) -> object:
        """Run a coroutine on the service's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)  # type: ignore[arg-type]


@contextmanager
def run_service(settings: Settings, *, quick: bool = True) -> Iterator[Running]:
    """The service under uvicorn, in a thread of this process; `quick`: with the protocol that it is served with."""
    if "engine" not in settings.model_fields_set:
        settings = settings.model_copy(update={"engine": "eager"})
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    service = Service(settings)
    started: threading.Event = threading.Event()
    box: dict[str, object] = {}

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    async def main() -> None:
        box["loop"] = asyncio.get_running_loop()
        fronts = Fronts(service) if settings.fronts else None
        try:
            await service.startup()
            plain = uvicorn.Config(service, http="httptools", lifespan="off", access_log=False, log_config=None)
            server = Server(configure(service, relayed=settings.fronts > 0) if quick else plain)
            box["server"] = server
            serving = asyncio.ensure_future(server.serve(sockets=[await fronts.start() if fronts else listener]))
            if fronts:
                fronts.open(listener)
            started.set()
            await serving
        finally:
            if fronts:
                await fronts.close()
            await service.close()

    def body() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - shown to the test
            box["error"] = error
            started.set()

    thread = threading.Thread(target=body)
    thread.start()
    started.wait(60)
    if "error" in box:
        thread.join()
        listener.close()
        raise box["error"]  # type: ignore[misc]
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            yield Running(service, url, client, box["loop"])  # type: ignore[arg-type]
    finally:
        box["server"].should_exit = True  # type: ignore[attr-defined]
        thread.join(30)
        listener.close()
