"""Metrics and traces: what a worker's life adds up to, the same for Prometheus and OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kit import phone, until
from videopoll import QueueUnavailableError, events
from videopoll.jobs import QueueCounts
from videopoll.observations import FaultKind
from videopoll.observe.metrics import INSTRUMENTS, OpenTelemetryHook, PrometheusHook, measure
from videopoll.testing import Reply

prometheus = pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")
sdk_metrics = pytest.importorskip("opentelemetry.sdk.metrics", reason="opentelemetry-sdk is not installed")
sdk_trace = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")

COUNTS = QueueCounts(queued=1, scheduled=2, in_flight=3, deliveries=4, dead=5, oldest_due_ms=None, now_ms=0)
STATES = {"queued": 1, "scheduled": 2, "in_flight": 3, "deliveries": 4, "dead": 5}


def polled(status="processing", fault=None):
    return events.JobPolled(
        job_id="job_1", attempt=1, elapsed_s=1.0, lag_s=0.02, took_s=0.2, status=status, fault=fault, next_s=10.0
    )


@pytest.fixture
def registry():
    return prometheus.CollectorRegistry()


@pytest.fixture
def reader():
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    return InMemoryMetricReader()


@pytest.fixture
def spans():
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    return InMemorySpanExporter()


@pytest.fixture
def otel(reader, spans):
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    meters = sdk_metrics.MeterProvider([reader])
    tracers = sdk_trace.TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    yield OpenTelemetryHook(meters, tracers, counts=lambda: COUNTS)
    meters.shutdown()
    tracers.shutdown()


def read(reader):
    """Give {(name, attributes): value or (count, sum)}."""
    found = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    key = (metric.name, *sorted(point.attributes.items()))
                    found[key] = point.value if hasattr(point, "value") else (point.count, point.sum)
    return found


def test_a_run_is_counted_alike_by_both(world, registry, otel, reader, spans):
    world.api.job("job_1", Reply.processing(), Reply.fault(503), Reply.completed("https://files.example/1.mp4"))
    world.api.job("job_2", Reply.failed("no"))
    with world.queue() as queue:
        hook = PrometheusHook(registry, counts=queue.counts)
        worker = world.worker(hooks=[hook, otel])
        for number in (1, 2):
            metadata = {"channel": "ultramsg", "to": phone(number)}
            queue.enqueue(f"job_{number}", conversation_id="c", metadata=metadata)
        with worker:
            until(lambda: len(worker.recorder.of(events.JobDelivered)) == 2, "both are told")
        in_flight = registry.get_sample_value("videopoll_jobs", {"state": "in_flight"})
        told = prometheus.generate_latest(registry).decode()

    def value(name, **labels):
        return registry.get_sample_value(f"videopoll_{name}", labels)

    assert value("polls_total", status="processing") == 1
    assert value("polls_total", status="fault") == 1
    assert value("faults_total", kind="server") == 1
    assert value("polls_total", status="completed") == 1
    assert value("jobs_concluded_total", outcome="completed") == 1
    assert value("jobs_concluded_total", outcome="failed") == 1
    assert value("sends_total", channel="ultramsg", form="video", result="delivered") == 1
    assert value("sends_total", channel="ultramsg", form="text", result="delivered") == 1
    assert value("deliveries_total", channel="ultramsg", form="text", outcome="failed") == 1
    assert (value("polls_per_video_count"), value("polls_per_video_sum")) == (1, 3)
    assert value("schedule_lag_seconds_count") == 4
    assert 0 < value("poll_duration_seconds_sum") < 5
    assert value("delivery_delay_seconds_count") == 2
    assert in_flight == 0
    assert "job_1" not in told

    found = read(reader)
    assert found["videopoll.polls", ("status", "processing")] == 1
    assert found["videopoll.faults", ("kind", "server")] == 1
    assert found["videopoll.polls_per_video",] == (1, 3)
    assert found["videopoll.sends", ("channel", "ultramsg"), ("form", "video"), ("result", "delivered")] == 1
    names = [span.name for span in spans.get_finished_spans()]
    assert (names.count("videopoll poll"), names.count("videopoll deliver")) == (4, 2)


def test_spans_last_as_long_as_what_they_tell_of(otel, spans):
    otel(polled())
    otel(polled(status="timeout", fault=FaultKind.TIMEOUT))

    good, bad = spans.get_finished_spans()
    assert good.end_time - good.start_time == pytest.approx(0.2e9, rel=0.2)
    assert good.attributes["videopoll.job_id"] == "job_1"
    assert good.status.is_ok
    assert (bad.status.is_ok, bad.status.description) == (False, "timeout")


def test_an_id_that_is_no_text_is_no_trouble(otel, spans):
    import attrs

    otel(attrs.evolve(polled(), job_id="gh\udcffost"))

    assert spans.get_finished_spans()[0].attributes["videopoll.job_id"] == "gh\\udcffost"


@pytest.mark.parametrize(("word", "label"), [("queued", "queued"), ("PROCESSING", "processing"), ("dance", "unknown")])
def test_words_of_the_api_cannot_make_the_number_of_series_grow(word, label):
    assert measure(polled(status=word))[0].labels == {"status": label}


def test_every_measurement_has_its_instrument():
    made = [
        polled(),
        polled(fault=FaultKind.SERVER),
        events.JobEnqueued(job_id="j", conversation_id="c"),
        events.JobCancelled(job_id="j"),
        events.JobClaimed(job_id="j", taken_over=True),
        events.JobDeadLettered(job_id="j", reason="r"),
        events.LeaseLost(job_id="j"),
        events.RedisLost(reason="r"),
        events.AccountHeldBack(account="fal:1", pause_s=2.0),
    ]
    known = {one.name: one for one in INSTRUMENTS}

    for event in made:
        assert measure(event)
        for measured in measure(event):
            assert set(known[measured.name].labels) == set(measured.labels)
    assert measure(events.WorkerStarted()) == ()


@pytest.mark.parametrize(("learnt", "told"), [(False, "this"), (True, "another")])
def test_pauses_of_accounts_are_counted_by_whose_they_are_and_not_by_account(registry, learnt, told):
    """So the pauses of a fleet can be added up."""
    PrometheusHook(registry)(events.AccountHeldBack(account="fal:1", pause_s=2.0, learnt=learnt))
    assert registry.get_sample_value("videopoll_account_pauses_total", {"told": told}) == 1
    assert b"fal:1" not in prometheus.generate_latest(registry)


def test_the_gauge_comes_from_the_queue_at_each_collection(registry, otel, reader):
    PrometheusHook(registry, counts=lambda: COUNTS)

    for state, number in STATES.items():
        assert registry.get_sample_value("videopoll_jobs", {"state": state}) == number
        assert read(reader)["videopoll.jobs", ("state", state)] == number


def test_the_gauge_is_missing_while_redis_is_away(registry, reader):
    def counts():
        msg = "away"
        raise QueueUnavailableError(msg)

    PrometheusHook(registry, counts=counts)
    OpenTelemetryHook(sdk_metrics.MeterProvider([reader]), counts=counts)

    assert registry.get_sample_value("videopoll_jobs", {"state": "dead"}) is None
    assert b"videopoll_redis_losses" in prometheus.generate_latest(registry)
    assert reader.get_metrics_data() is None or not read(reader)


@pytest.mark.parametrize(
    ("hook", "module", "extra"),
    [("PrometheusHook", "prometheus_client", "prometheus"), ("OpenTelemetryHook", "opentelemetry", "otel")],
)
def test_without_the_extra_it_says_what_to_install(hook, module, extra):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from videopoll.observe.metrics import {hook}\n"
        f"try: {hook}()\n"
        f"except ImportError as error: print(error)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert f"pip install 'videopoll[{extra}]'" in done.stdout


def test_importing_the_module_needs_neither():
    code = "import sys; sys.modules |= dict.fromkeys(['prometheus_client', 'opentelemetry']); import videopoll.observe.metrics"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
