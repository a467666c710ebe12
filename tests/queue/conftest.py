"""What the tests of the queue share."""

from __future__ import annotations

import pytest
import redis

from kit.bench import Bench


@pytest.fixture
def bench(kind, call, redis_url, prefix):
    """A queue of either kind."""
    with redis.Redis.from_url(redis_url) as db:
        bench = Bench(kind, redis_url, prefix, call, db)
        yield bench
        for queue in bench.queues:
            call(queue.close())
