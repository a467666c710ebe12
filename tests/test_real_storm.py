"""Small storms over real processes and servers for every run of the tests; `nox -s storm -- --real` has large and fresh ones."""

from __future__ import annotations

import pytest

from storm.model import judge
from storm.plan import delivery_storm, kill_storm, plan_of
from storm.real import run_real

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("server", ["redis", "valkey"])
def test_workers_that_keep_being_killed_lose_nothing_and_double_nothing(server, require_server):
    """The existing worker, put under such a storm, lost nine videos of sixty for ever."""
    require_server(server)
    story = run_real(kill_storm(7, jobs=60, kills=12, for_s=75.0), server=server)

    assert not judge(story)
    assert story.made["kill"] >= 12


def test_each_user_gets_one_message_from_a_messenger_that_misbehaves_in_every_way(require_server):
    """Making a video costs money; the message is the product."""
    require_server("valkey")
    story = run_real(delivery_storm(7, jobs=60, kills=10, for_s=60.0), server="valkey")

    assert not judge(story)
    assert story.made["kill"] >= 10


@pytest.mark.parametrize("seed", [4, 16])
def test_a_plan_of_the_simulation_passes_over_real_processes_too(seed, require_server):
    """One with three kinds of trouble, and one with a look-up."""
    require_server("valkey")

    assert not judge(run_real(plan_of(seed), server="valkey"))
