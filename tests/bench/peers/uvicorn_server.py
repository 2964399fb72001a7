"""uvicorn alone: what a good engineer writes in sixty lines when there is no model server. `... PORT`

A plain ASGI app, uvloop and httptools, and a thread that takes everything that waits as one batch. Raw bytes in and
out. No validation, no limits, no metrics, no second model: the least that a Python process can do for a request.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from lenet import IMAGE, MAX_BATCH, Classifier, answer_each

HEADERS = [(b"content-type", b"application/octet-stream")]


class App:
    def __init__(self) -> None:
        self.classify = Classifier()
        self.waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self.wake = threading.Condition()

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if body:
            answer: asyncio.Future[bytes] = self.loop.create_future()
            with self.wake:
                self.waiting.append((body, answer))
                self.wake.notify()
            body = await answer
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]})
        await send({"type": "http.response.body", "body": body})

    def work(self) -> None:
        while True:
            with self.wake:
                self.wake.wait_for(lambda: self.waiting)
                count, images = 0, 0
                while count < len(self.waiting) and images < MAX_BATCH:
                    images += len(self.waiting[count][0]) // IMAGE
                    count += 1
                batch, self.waiting = self.waiting[:count], self.waiting[count:]
            answers = answer_each(self.classify, [body for body, _ in batch])
            futures = [future for _, future in batch]
            self.loop.call_soon_threadsafe(deliver, futures, answers)

    async def serve(self, port: int) -> None:
        self.loop = asyncio.get_running_loop()
        threading.Thread(target=self.work, daemon=True).start()
        config = uvicorn.Config(
            self, port=port, http="httptools", lifespan="off", access_log=False, log_level="warning", backlog=4096
        )
        await uvicorn.Server(config).serve()


def deliver(futures: list[asyncio.Future[bytes]], answers: list[bytes]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if not future.done():
            future.set_result(answer)


if __name__ == "__main__":
    import uvloop

    uvloop.run(App().serve(int(sys.argv[1])))
