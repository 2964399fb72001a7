"""mosec: its Rust front, one worker process, dynamic batching. `... --port PORT` (mosec reads its own arguments)

Raw bytes in and out. The batch wait is 1 ms, the least that mosec takes: its default of 10 ms is what a request with
nothing to share a batch with would wait.
"""

from __future__ import annotations

import os

from lenet import IMAGE, MAX_BATCH, Classifier, answer_each
from mosec import Server, Worker

WAIT_MS = int(os.environ.get("MOSEC_BENCH_WAIT_MS", "1"))


class Lenet(Worker):
    example = bytes(IMAGE)
    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self.classify = Classifier()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        return answer_each(self.classify, data)

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Lenet, num=1, max_batch_size=MAX_BATCH, max_wait_time=WAIT_MS)
    server.run()
