"""What carries steps out: the two runners. It knows queues, pollers and notifiers by their protocols alone."""

from __future__ import annotations

from videopoll.jobs.views import Health, RunSummary
from videopoll.worker.async_runner import AsyncRunner
from videopoll.worker.runner import Runner
from videopoll.worker.serve import serve

__all__ = ["AsyncRunner", "Health", "RunSummary", "Runner", "serve"]
