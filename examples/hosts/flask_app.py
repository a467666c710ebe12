"""A web application that orders videos, and its worker as a command beside it.

    pip install videopoll flask
    flask --app examples/hosts/flask_app.py work &
    flask --app examples/hosts/flask_app.py run
    curl -d job=job_1 -d to=5491155550001 http://127.0.0.1:5000/videos
    curl http://127.0.0.1:5000/videos/job_1

The web server's processes only talk to Redis. Start as many workers as you like, on any machine.
"""

from __future__ import annotations

import os

from flask import Flask, Response, jsonify, request

from videopoll import QueueError, RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier, VideoApiPoller
from videopoll.errors import InvalidJobError

app = Flask(__name__)
queue = RedisVideoJobQueue.from_url(os.environ["REDIS_URL"], prefix=os.environ.get("PREFIX", "flask"))


@app.post("/videos")
def order() -> tuple[Response, int]:
    metadata = {"channel": "ultramsg", "to": request.form["to"]}
    try:
        result = queue.enqueue(request.form["job"], conversation_id=request.form["to"], metadata=metadata)
    except InvalidJobError as error:
        return jsonify(error=str(error)), 400
    except QueueError:
        return jsonify(error="try again in a moment"), 503
    return jsonify(result=result), 202


@app.get("/videos/<job_id>")
def look(job_id: str) -> tuple[Response, int]:
    job = queue.get(job_id)
    if job is None:
        return jsonify(error="there is no such video"), 404
    return jsonify(state=job.state.value, outcome=job.outcome and job.outcome.kind.value), 200


@app.cli.command("work")
def work() -> None:
    """Poll and deliver until SIGTERM or Ctrl-C."""
    poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
    ultramsg = UltraMsgNotifier(
        base_url=os.environ["ULTRAMSG_URL"],
        instance_id=os.environ["ULTRAMSG_INSTANCE"],
        token=os.environ["ULTRAMSG_TOKEN"],
    )
    with queue, Runner(queue, poller, RoutingNotifier.from_metadata({"ultramsg": ultramsg})) as runner:
        runner.run(handle_signals=True)
