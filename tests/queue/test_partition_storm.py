"""The number of partitions is raised in the middle of a storm: nobody's video is lost, and nobody is told twice."""

from __future__ import annotations

import pytest

from kit.fleet_storm import all_told_once
from kit.partition_storm import RaiseStorm
from videopoll.queue import layout_calls, partitions
from videopoll.testing import EmbeddedRedis


@pytest.fixture
def url():
    """A server of the storm's own."""
    with EmbeddedRedis() as server:
        yield server.url


def test_a_raise_in_a_storm_loses_no_job_and_doubles_no_message(url, kind):
    """Producers of two, three and five partitions hand in the same jobs, and workers of two are killed."""
    assert RaiseStorm(kind, jobs=40).run(url) == all_told_once(40)


@pytest.mark.at_length
@pytest.mark.parametrize("without", ["no layout is compared", "no former home is asked"])
def test_the_storm_finds_what_is_taken_out(url, monkeypatch, without):
    """A producer that does not look, or that is not told."""
    if without == "no layout is compared":
        usual = layout_calls.enqueue
        monkeypatch.setattr(
            layout_calls, "enqueue", lambda *args, **options: usual(*args, **options | {"partitions": 999})
        )
    else:
        monkeypatch.setattr(partitions, "leavings", lambda *_: ())
    # Workers of two would learn of more from what the producers note.
    assert RaiseStorm("sync", jobs=40, kills=1, serve=5).run(url)["doubled"] > 0
