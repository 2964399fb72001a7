"""A load generator for HTTP inference services: closed and open loop, every answer checked, latency without gaps.

``closed`` keeps a number of requests in flight; ``open_loop`` sends them when they are due, whatever the service does.
"""

from dlenv.bench.histogram import Histogram
from dlenv.bench.result import Latency, Rejection, Result
from dlenv.bench.run import closed, open_loop
from dlenv.bench.target import Request, Target

__all__ = ["Histogram", "Latency", "Rejection", "Request", "Result", "Target", "closed", "open_loop"]
