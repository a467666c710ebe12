"""A program in which gevent has replaced threads and sockets, as in its WSGI server or in gunicorn's gevent workers."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402 - after the patch

import gevent  # noqa: E402
import parts  # noqa: E402

queue, runner = parts.threads()
with queue, runner:
    runner.start()
    queue.enqueue(sys.argv[1], conversation_id="c", metadata=parts.metadata(sys.argv[2]))
    outcome = gevent.spawn(queue.wait, sys.argv[1], timeout_s=20).get()
    print(outcome.kind.value, runner.health().problems)
