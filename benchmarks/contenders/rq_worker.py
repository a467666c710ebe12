"""RQ: a poll that finds no video enqueues the next one, an interval later; a worker does one job at a time, each in a fork."""

from __future__ import annotations

import sys
from datetime import timedelta

import redis
import requests
from common import KEY, Scenario, scenario, tell_ready
from rq import Queue, Worker


def poll(redis_url: str, world_url: str, interval_s: float, job_id: str) -> None:
    answer = requests.get(f"{world_url}/job/{job_id}", headers=KEY, timeout=30).json()
    if answer["status"] != "completed":
        _put(redis_url, interval_s, (redis_url, world_url, interval_s, job_id))
    else:
        requests.post(f"{world_url}/send", json={"video": answer["videoUrl"]}, timeout=30).raise_for_status()


def _put(redis_url: str, in_s: float, arguments: tuple[object, ...]) -> None:
    queue = Queue(connection=redis.Redis.from_url(redis_url))
    queue.enqueue_in(timedelta(seconds=in_s), "rq_worker.poll", *arguments, result_ttl=0)


def main(scene: Scenario) -> None:
    connection = redis.Redis.from_url(scene.redis_url)
    queue = Queue(connection=connection)
    arguments = [(scene.redis_url, scene.world_url, scene.interval_s, job_id) for job_id in scene.job_ids()]
    jobs = [Queue.prepare_data("rq_worker.poll", args=one, result_ttl=0) for one in arguments]
    queue.enqueue_many(jobs)
    tell_ready()
    sys.stdout = sys.stderr
    Worker([queue], connection=connection).work(with_scheduler=True, logging_level="CRITICAL")


if __name__ == "__main__":
    main(scenario())
