"""Ray Serve as its own tutorials write it: a class, `@serve.batch`, Serve's default proxy. `serve run CONFIG`

Raw bytes in and out. `max_ongoing_requests` admits whole batches (its default of 5 would cap a batch at 5), and the
logs of single requests are off (in the config that the benchmark writes).
"""

from __future__ import annotations

from lenet import MAX_BATCH, Classifier, answer_each
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=4 * MAX_BATCH)
class Lenet:
    def __init__(self) -> None:
        self.classify = Classifier()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.002)
    async def answer(self, bodies: list[bytes]) -> list[bytes]:
        return answer_each(self.classify, bodies)

    async def __call__(self, request: Request) -> Response:
        return Response(await self.answer(await request.body()), media_type="application/octet-stream")


app = Lenet.bind()
