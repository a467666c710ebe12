"""A WSGI application, composed when it is imported: before gunicorn forks, with --preload."""

from __future__ import annotations

import json
import os
from urllib.parse import parse_qsl

import parts

queue, runner = parts.threads()
# A connection that is open when the server forks.
queue.counts()
if os.environ.get("START") == "at import":
    runner.start()


def application(environ, start_response):
    asked = dict(parse_qsl(environ["QUERY_STRING"]))
    if "job" in asked:
        queue.enqueue(asked["job"], conversation_id="c", metadata=parts.metadata(asked["user"]))
    told = {"worker": runner.worker_id, "pid": os.getpid(), "problems": runner.health().problems}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


def start():
    if os.environ.get("START") != "at import":
        runner.start()


def stop():
    runner.stop()
    for part in (parts.poller, parts.notifier, queue):
        part.close()
