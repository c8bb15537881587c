"""Numbers of a server for Prometheus: jobs by state, seconds by stage, failures, requests."""

import time
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import JsonValue

STAGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
ANSWERS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
ENDED = ("done", "failed", "cancelled", "crashed")


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        to = self.registry
        self.jobs = Gauge(
            "kandinsky_jobs", "Jobs by state; those queued are how deep the queue is.", ["state"], registry=to
        )
        self.ready = Gauge("kandinsky_ready", "Whether an image was drawn.", registry=to)
        self.stages = Histogram(
            "kandinsky_stage_seconds", "Seconds that a batch was in a stage.", ["stage"], buckets=STAGES, registry=to
        )
        self.ended = Counter("kandinsky_jobs_ended", "Jobs that ended, by how.", ["state"], registry=to)
        self.failures = Counter(
            "kandinsky_failures", "Jobs that failed and workers that ended, by why.", ["kind"], registry=to
        )
        self.requests = Counter("kandinsky_requests", "Requests by answer.", ["method", "route", "status"], registry=to)
        self.seconds = Histogram(
            "kandinsky_request_seconds", "Seconds until an answer began.", ["route"], buckets=ANSWERS, registry=to
        )
        self._at: dict[int, tuple[str, float]] = {}

    def heard(self, kind: str, jobs: Sequence[int], values: Mapping[str, JsonValue]) -> None:
        """Counts what a worker tells of jobs that are drawn together; the first stands for them."""
        for one in jobs[:1]:
            stage = str(values.get("stage")) if kind == "progress" else "" if kind in ENDED else None
            if stage is not None:
                self._enter(one, stage)
        if kind in ENDED[:3]:
            self.ended.labels(kind).inc(len(jobs))
        if kind == "crashed":
            self._at.clear()
        if kind in ("failed", "crashed"):
            error = values.get("error")
            why = str(error.get("type")) if isinstance(error, dict) else "crash"
            self.failures.labels(why if why.replace(" ", "").isidentifier() else "other").inc()

    def _enter(self, job: int, stage: str) -> None:
        now, (before, since) = time.monotonic(), self._at.pop(job, ("", 0.0))
        if before == stage:
            now = since
        elif before:
            self.stages.labels(before).observe(now - since)
        if stage:
            self._at[job] = stage, now

    def text(self, counts: Mapping[str, int], ready: bool) -> bytes:
        """All numbers as Prometheus reads them."""
        for state, count in counts.items():
            self.jobs.labels(state).set(count)
        self.ready.set(ready)
        return generate_latest(self.registry)
