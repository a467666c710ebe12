"""Metrics and traces from the stream of events: `PrometheusHook` and `OpenTelemetryHook`.

Both are hooks of a runner. What is measured is described once (`INSTRUMENTS`,
`measure`), so both report the same under the same names. Labels come from fixed
sets: no status word of an API, no id and no reason can make their number grow.

How many jobs are in which state is known to Redis, not from a worker's events:
pass `counts`, e.g. the bound method `RedisVideoJobQueue.counts`, which is called
whenever the metrics are collected.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

import attrs

from videopoll import events
from videopoll.errors import VideopollError
from videopoll.jobs.checks import check_callable
from videopoll.jobs.outcome import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation
    from opentelemetry.trace import Span, TracerProvider
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from videopoll.jobs.views import QueueCounts

__all__ = ["INSTRUMENTS", "Instrument", "Measurement", "OpenTelemetryHook", "PrometheusHook", "measure"]

Counts: TypeAlias = "Callable[[], QueueCounts]"

STATUSES = frozenset({"processing", "queued", "completed", "failed", "not_found"})
"""The API's status words that are counted by name; all others count as ``unknown``."""

FAST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SLOW_S = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
_FAILED_SENDS = frozenset({"not_sent", "refused", "unknown", "no_answer"})

POLLS = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0)

STATES = ("queued", "scheduled", "in_flight", "deliveries", "watched", "dead")
"""The fields of `QueueCounts` that become gauges."""


@attrs.frozen
class Instrument:
    """One metric.

    Args:
        name: Its name without the prefix ``videopoll_`` (Prometheus) or ``videopoll.`` (OpenTelemetry).
        help: What it counts or measures.
        labels: The names of its labels.
        buckets: The upper bounds of a histogram; empty for a counter.
        unit: ``s`` for seconds; empty for numbers.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    unit: str = ""


@attrs.frozen
class Measurement:
    """What one event adds to one metric."""

    name: str
    value: float = 1.0
    labels: Mapping[str, str] = attrs.field(factory=dict)


INSTRUMENTS: tuple[Instrument, ...] = (
    Instrument("jobs_enqueued", "Jobs taken in by this process"),
    Instrument("jobs_concluded", "Jobs whose polling ended", ("outcome",)),
    Instrument("jobs_cancelled", "Jobs cancelled by this process"),
    Instrument("polls", "Polls by the video API's answer, fault if there was none", ("status",)),
    Instrument("faults", "Polls without an answer", ("kind",)),
    Instrument("schedule_lag", "From the time when a poll was due to its start", buckets=FAST_S, unit="s"),
    Instrument("poll_duration", "What a poll took", buckets=FAST_S, unit="s"),
    Instrument("polls_per_video", "Polls that a finished video took", buckets=POLLS),
    Instrument(
        "sends", "Messages handed to a channel, by channel, form and what came of it", ("channel", "form", "result")
    ),
    Instrument("send_duration", "What handing a message to its channel took", buckets=FAST_S, unit="s"),
    Instrument("links", "Links asked for anew, or published, before a send, by what came of it", ("how", "result")),
    Instrument("acceptances", "Messages that a channel accepted and tells of later", ("channel", "form", "outcome")),
    Instrument("receipts", "What channels told of messages that they had accepted", ("channel", "form", "kind")),
    Instrument("deliveries", "Users who got the outcome of their job", ("channel", "form", "outcome")),
    Instrument("delivery_delay", "From the outcome to its delivery", buckets=SLOW_S, unit="s"),
    Instrument("dead_letters", "What could not be processed or delivered"),
    Instrument("leases_lost", "Jobs that another worker took over from this one"),
    Instrument("takeovers", "Jobs that this worker took over from one that died"),
    Instrument("callbacks", "Callbacks of video APIs, by what came of them", ("provider", "result")),
    Instrument("account_pauses", "Times that this worker left an account of a video API alone after a 429", ("told",)),
    Instrument("redis_losses", "Times that Redis went away"),
)
"""Every metric but the gauge of the jobs by state."""


def measure(event: events.Event) -> tuple[Measurement, ...]:  # noqa: C901, PLR0912 - one case an event
    """Return what an event adds to the metrics."""
    match event:
        case events.JobEnqueued():
            return (Measurement("jobs_enqueued"),)
        case events.JobCancelled():
            return (Measurement("jobs_cancelled"),)
        case events.JobClaimed(taken_over=True):
            return (Measurement("takeovers"),)
        case events.JobPolled():
            return _measure_poll(event)
        case events.JobConcluded():
            concluded = Measurement("jobs_concluded", labels={"outcome": event.outcome.value})
            if event.outcome is OutcomeKind.COMPLETED:
                return concluded, Measurement("polls_per_video", event.attempts)
            return (concluded,)
        case events.SendTried():
            return (
                Measurement(
                    "sends", labels={"channel": event.channel or "", "form": event.form.value, "result": event.result}
                ),
                Measurement("send_duration", event.took_s),
            )
        case events.LinkTried():
            return (Measurement("links", labels={"how": event.how, "result": event.result}),)
        case events.JobAccepted():
            labels = {"channel": event.channel or "", "form": event.form.value, "outcome": event.outcome.value}
            return (Measurement("acceptances", labels=labels),)
        case events.ReceiptReceived():
            labels = {"channel": event.channel or "", "form": event.form.value, "kind": event.kind}
            return (Measurement("receipts", labels=labels),)
        case events.JobDelivered():
            return (
                Measurement(
                    "deliveries",
                    labels={"channel": event.channel or "", "form": event.form.value, "outcome": event.outcome.value},
                ),
                Measurement("delivery_delay", event.after_s),
            )
        case events.JobDeadLettered():
            return (Measurement("dead_letters"),)
        case events.LeaseLost():
            return (Measurement("leases_lost"),)
        case events.AccountHeldBack():
            return (Measurement("account_pauses", labels={"told": "another" if event.learnt else "this"}),)
        case events.RedisLost():
            return (Measurement("redis_losses"),)
        case events.CallbackReceived():
            return (Measurement("callbacks", labels={"provider": event.provider, "result": event.result}),)
        case _:
            return ()


def _measure_poll(event: events.JobPolled) -> tuple[Measurement, ...]:
    status = "fault" if event.fault else _status(event.status)
    measured = (
        Measurement("polls", labels={"status": status}),
        Measurement("schedule_lag", event.lag_s),
        Measurement("poll_duration", event.took_s),
    )
    return (*measured, Measurement("faults", labels={"kind": event.fault.value})) if event.fault else measured


def _status(word: str) -> str:
    return word.lower() if word.lower() in STATUSES else "unknown"


def _by_state(counts: Counts | None) -> dict[str, int]:
    """Count jobs by state; empty while Redis is unavailable."""
    if counts is None:
        return {}
    try:
        found = counts()
    except VideopollError:
        return {}
    return {state: int(getattr(found, state)) for state in STATES}


def _histogram(meter: Meter, name: str, one: Instrument) -> Histogram:
    try:
        return meter.create_histogram(
            name, one.unit or "1", one.help, explicit_bucket_boundaries_advisory=list(one.buckets)
        )
    except TypeError:
        # Before 1.28 the API took no buckets: a view of the SDK can set them.
        return meter.create_histogram(name, one.unit or "1", one.help)


class PrometheusHook:
    """Counts events in a Prometheus registry, under names that start with ``videopoll_``.

    Times are in seconds. The gauge ``videopoll_jobs{state="…"}`` needs `counts`.

    Args:
        registry: Where to register; the library's global one by default. One hook per registry.
        counts: Counts the jobs by state; called at each collection, from the
            collecting thread. While it fails, the gauge is missing.

    Raises:
        ImportError: The extra ``prometheus`` is not installed.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, counts: Counts | None = None) -> None:
        try:
            import prometheus_client as prometheus  # noqa: PLC0415 - an extra
        except ImportError:
            msg = "PrometheusHook needs prometheus-client: pip install 'videopoll[prometheus]'"
            raise ImportError(msg) from None
        if registry is not None:
            check_callable(getattr(registry, "register", None), "PrometheusHook.registry's register", "a collector")
        if counts is not None:
            check_callable(counts, "PrometheusHook.counts", "nothing")
        self.registry: CollectorRegistry = registry if registry is not None else prometheus.REGISTRY
        self._counts = counts
        self._counters: dict[str, prometheus.Counter] = {}
        self._histograms: dict[str, prometheus.Histogram] = {}
        for one in INSTRUMENTS:
            name = f"videopoll_{one.name}" + ("_seconds" if one.unit else "")
            if one.buckets:
                self._histograms[one.name] = prometheus.Histogram(
                    name, one.help, one.labels, buckets=one.buckets, registry=self.registry
                )
            else:
                self._counters[one.name] = prometheus.Counter(name, one.help, one.labels, registry=self.registry)
        if counts is not None:
            self.registry.register(self)

    def __call__(self, event: events.Event) -> None:
        """Count an event."""
        for measured in measure(event):
            if measured.name in self._histograms:
                self._histograms[measured.name].observe(measured.value)
            elif measured.labels:
                self._counters[measured.name].labels(**measured.labels).inc(measured.value)
            else:
                self._counters[measured.name].inc(measured.value)

    def describe(self) -> Iterable[Metric]:
        """Name the gauge without asking Redis, as the registry wants at the registration."""
        return [self._gauge({})]

    def collect(self) -> Iterator[Metric]:
        """Yield the jobs by state; the registry calls this at each collection."""
        by_state = _by_state(self._counts)
        if by_state:
            yield self._gauge(by_state)

    @staticmethod
    def _gauge(by_state: Mapping[str, int]) -> Metric:
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - an extra

        gauge = GaugeMetricFamily("videopoll_jobs", "Jobs by where they are", labels=["state"])
        for state, number in by_state.items():
            gauge.add_metric([state], number)
        return gauge


class OpenTelemetryHook:
    """Counts events with OpenTelemetry, under names that start with ``videopoll.``, and creates a span per poll and per send.

    Times are in seconds. The gauge ``videopoll.jobs`` with the attribute
    ``state`` needs `counts`. Spans carry the job's id, never what is sent.

    Args:
        meter_provider: Where metrics go; the global provider by default.
        tracer_provider: Where spans go; the global provider by default.
        counts: Counts the jobs by state; called at each collection. While
            it fails, the gauge is missing.

    Raises:
        ImportError: The extra ``otel`` is not installed.
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        *,
        counts: Counts | None = None,
    ) -> None:
        try:
            from opentelemetry import metrics, trace  # noqa: PLC0415 - an extra
        except ImportError:
            msg = "OpenTelemetryHook needs opentelemetry-api: pip install 'videopoll[otel]'"
            raise ImportError(msg) from None
        from videopoll import __version__  # noqa: PLC0415 - the package imports its parts

        for name, provider, method in (
            ("meter_provider", meter_provider, "get_meter"),
            ("tracer_provider", tracer_provider, "get_tracer"),
        ):
            if provider is not None:
                check_callable(getattr(provider, method, None), f"OpenTelemetryHook.{name}'s {method}", "a name")
        if counts is not None:
            check_callable(counts, "OpenTelemetryHook.counts", "nothing")
        meter = metrics.get_meter("videopoll", __version__, meter_provider)
        self._tracer = trace.get_tracer("videopoll", __version__, tracer_provider)
        self._kind = trace.SpanKind.CLIENT
        self._error = trace.StatusCode.ERROR
        self._counts = counts
        self._counters: dict[str, metrics.Counter] = {}
        self._histograms: dict[str, metrics.Histogram] = {}
        for one in INSTRUMENTS:
            name = f"videopoll.{one.name}"
            if one.buckets:
                self._histograms[one.name] = _histogram(meter, name, one)
            else:
                self._counters[one.name] = meter.create_counter(name, one.unit or "1", one.help)
        if counts is not None:
            meter.create_observable_gauge("videopoll.jobs", [self._observe], "1", "Jobs by where they are")

    def __call__(self, event: events.Event) -> None:
        """Count an event, and record a span if it is a poll or a send."""
        for measured in measure(event):
            if measured.name in self._histograms:
                self._histograms[measured.name].record(measured.value, dict(measured.labels))
            else:
                self._counters[measured.name].add(measured.value, dict(measured.labels))
        if isinstance(event, events.JobPolled):
            span = self._span(
                "videopoll poll",
                event.took_s,
                {"job_id": event.job_id, "attempt": event.attempt, "lag_s": event.lag_s, "elapsed_s": event.elapsed_s},
            )
            span.set_attribute("videopoll.status", "fault" if event.fault else _status(event.status))
            self._end(span, event.fault.value if event.fault else None)
        elif isinstance(event, events.SendTried):
            span = self._span(
                "videopoll deliver",
                event.took_s,
                {
                    "job_id": event.job_id,
                    "attempt": event.attempt,
                    "form": event.form.value,
                    "result": event.result,
                },
            )
            self._end(span, event.result if event.result in _FAILED_SENDS else None)

    def _span(self, name: str, took_s: float, attributes: Mapping[str, str | int | float]) -> Span:
        """Start a span of something that has just ended."""
        return self._tracer.start_span(
            name,
            kind=self._kind,
            start_time=time.time_ns() - round(took_s * 1e9),
            attributes={
                f"videopoll.{key}": value.encode("utf-8", "backslashreplace").decode()
                if isinstance(value, str)
                else value
                for key, value in attributes.items()
            },
        )

    def _end(self, span: Span, problem: str | None) -> None:
        if problem is not None:
            span.set_status(self._error, problem)
        span.end()

    def _observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation  # noqa: PLC0415 - an extra

        return [Observation(number, {"state": state}) for state, number in _by_state(self._counts).items()]
