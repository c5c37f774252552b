"""Metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from edgerank.serving.scheduler import MicroBatchRun

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
SHARES = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics:
    """The metrics, in a separate registry, with those of the process."""

    def __init__(self) -> None:
        disable_created_metrics()  # no time stamp for each series
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        registry = self.registry
        self._requests = Counter(
            "edgerank_requests", "Calls answered.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "edgerank_request_seconds",
            "From a call's first byte of work to its answer.",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        self._rejected = Counter(
            "edgerank_rejected", "Calls not served, by reason.", ["reason"], registry=registry
        )
        self._documents = Counter(
            "edgerank_documents", "Documents scored.", ["model"], registry=registry
        )
        self._tokens = Counter("edgerank_tokens", "Tokens computed.", ["model"], registry=registry)
        self._stages = Histogram(
            "edgerank_stage_seconds",
            "Time of a request in each stage: tokenize, queue, inference.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._queue = Gauge(
            "edgerank_queue_tokens", "Tokens waiting or in progress.", registry=registry
        )
        self._models = Info(
            "edgerank_model",
            "What a model was opened from, and what computes it.",
            ["model"],
            registry=registry,
        )
        self._fill = Histogram(
            "edgerank_batch_fill",
            "Share of a micro-batch's token budget that was used.",
            buckets=SHARES,
            registry=registry,
        )
        self._shared = Histogram(
            "edgerank_batch_requests",
            "Requests in a micro-batch.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=registry,
        )

    def listen(self, address: str, port: int) -> int:
        """Answer scrapes over HTTP; return the port.

        :raises OSError: the address cannot be listened on
        """
        server, _ = start_http_server(port, address, self.registry)
        return server.server_port

    def watch_queue(self, queue_tokens: Callable[[], float]) -> None:
        """Read the number of the queue's tokens at each scrape."""
        self._queue.set_function(queue_tokens)

    def describe_model(self, model: str, digest: str, variant: str, kernels: str) -> None:
        """Publish the digest, variant and kernels of a model."""
        facts = {"digest": digest, "variant": variant, "kernels": kernels}
        self._models.labels(model).info(facts)

    def observe_run(self, run: MicroBatchRun) -> None:
        """Count a micro-batch."""
        self._fill.observe(min(1.0, run.num_tokens / run.max_tokens))
        self._shared.observe(run.num_jobs)

    def observe_stages(self, tokenize_s: float, queue_s: float, inference_s: float) -> None:
        """Count the time of the stages of a request."""
        self._stages.labels("tokenize").observe(tokenize_s)
        self._stages.labels("queue").observe(queue_s)
        self._stages.labels("inference").observe(inference_s)

    def count_scored(self, model: str, num_documents: int, num_tokens: int) -> None:
        """Count the documents and tokens of a request."""
        self._documents.labels(model).inc(num_documents)
        self._tokens.labels(model).inc(num_tokens)

    def count_call(self, method: str, code: str, seconds: float) -> None:
        """Count an answered call."""
        self._requests.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)

    def count_rejected(self, reason: str) -> None:
        """Count a call that was not served."""
        self._rejected.labels(reason).inc()
