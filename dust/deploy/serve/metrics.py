"""What a server counts, in the text form of Prometheus."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        import prometheus_client as prometheus

        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        kinds: Any = {"registry": self.registry}
        self.requests = prometheus.Counter(
            "dust_requests", "Requests that were answered, by address and HTTP status.", ["endpoint", "status"], **kinds
        )
        self.clips = prometheus.Counter(
            "dust_clips", "Clips, by what came of them: answered, damaged (answered all the same), unreadable.",
            ["outcome"], **kinds,
        )  # fmt: skip
        self.seconds = prometheus.Histogram(
            "dust_request_seconds", "Seconds from a request's first byte to its answer.", ["endpoint"],
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120), **kinds,
        )  # fmt: skip
        self.batch = prometheus.Histogram(
            "dust_batch_clips", "Clips that went through the model together.", buckets=(1, 2, 4, 8, 16, 32, 64), **kinds
        )
        self.busy = prometheus.Gauge("dust_requests_under_way", "Requests and streams under way.", **kinds)
        self.windows = prometheus.Counter("dust_stream_windows", "Windows of streams that were answered.", **kinds)

    def text(self) -> bytes:
        """Return all of them, as Prometheus reads them."""
        import prometheus_client as prometheus

        return prometheus.generate_latest(self.registry)

    @contextlib.contextmanager
    def timed(self, endpoint: str) -> Iterator[None]:
        """Measure what is done inside as one request."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds.labels(endpoint).observe(time.monotonic() - begin)
