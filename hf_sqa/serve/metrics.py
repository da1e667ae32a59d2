"""Metrics of the service for Prometheus. If `PROMETHEUS_MULTIPROC_DIR` names a folder, several processes are summed."""

import os
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16)


class Metrics:
    """Counters of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("hf_sqa_requests", "Requests answered.", ["path", "http_status"], **kept)
        self.seconds = Histogram("hf_sqa_request_seconds", "Time from request to answer.", ["path"], buckets=SECONDS, **kept)
        self.recordings = Counter("hf_sqa_recordings", "Rows given, by `status` and `code`.", ["status", "code"], **kept)
        self.audio_seconds = Counter("hf_sqa_audio_seconds", "Seconds of the recordings that were scored.", **kept)
        self.batches = Histogram("hf_sqa_batch_recordings", "Recordings given to the model together.", buckets=SIZES, **kept)
        self.waiting = Gauge("hf_sqa_waiting", "Recordings that wait or are scored.", multiprocess_mode="livesum", **kept)

    def count_row(self, row: Mapping[str, Any]) -> None:
        """Count one row."""
        self.recordings.labels(row["status"], row["code"] or "").inc()
        if row["status"] == "ok":
            self.audio_seconds.inc(row["duration_seconds"])

    def text(self) -> bytes:
        """Return all counters in the text format of Prometheus."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)
