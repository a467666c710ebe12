"""Celery with its gevent pool: a poll that finds no video retries after a countdown of an interval."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import requests  # noqa: E402 - after the patch
from celery import Celery, Task  # noqa: E402
from common import KEY, scenario, tell_ready  # noqa: E402
from requests.adapters import HTTPAdapter  # noqa: E402

scene = scenario()
app = Celery("benchmark", broker=scene.redis_url)
app.conf.update(
    task_ignore_result=True, worker_prefetch_multiplier=1, broker_transport_options={"visibility_timeout": 3600}
)
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=scene.concurrency))


@app.task(bind=True, name="poll", max_retries=None)
def poll(self: Task, job_id: str) -> None:
    answer = session.get(f"{scene.world_url}/job/{job_id}", headers=KEY, timeout=30).json()
    if answer["status"] != "completed":
        raise self.retry(countdown=scene.interval_s)
    session.post(f"{scene.world_url}/send", json={"video": answer["videoUrl"]}, timeout=30).raise_for_status()


if __name__ == "__main__":
    for job_id in scene.job_ids():
        poll.delay(job_id)
    tell_ready()
    options = ["--pool", "gevent", "--concurrency", str(scene.concurrency), "--loglevel", "CRITICAL"]
    app.worker_main(["worker", *options, "--without-gossip", "--without-mingle", "--without-heartbeat"])
