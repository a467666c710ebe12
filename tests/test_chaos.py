"""A small kill storm for every run of the tests; `nox -s chaos` is the large one."""

from __future__ import annotations

import pytest

from chaos import Storm


@pytest.mark.slow
def test_a_kill_storm_loses_nothing_and_doubles_nothing():
    """The existing worker, put under such a storm, lost nine videos of sixty for ever."""
    report = Storm(jobs=60, kills=12, stops=1, restarts=1, seconds=15.0, seed=60).run()

    assert (report.lost, report.doubled, report.dead_letters) == (0, 0, 0), report
    assert report.recovery_s <= 20, report  # the promise is 15 s; a busy machine starts processes slowly
