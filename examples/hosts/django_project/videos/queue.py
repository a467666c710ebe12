"""The queue of this project: one for each process, opened when it is first used."""

from __future__ import annotations

from functools import cache

from django.conf import settings

from videopoll import RedisVideoJobQueue


@cache
def video_queue() -> RedisVideoJobQueue:
    return RedisVideoJobQueue.from_url(settings.VIDEOPOLL["redis_url"], prefix=settings.VIDEOPOLL["prefix"])
