"""All that knows Redis: keys, scripts, the two queues, dead letters, history."""

from __future__ import annotations

from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue

__all__ = ["AsyncRedisVideoJobQueue", "RedisVideoJobQueue"]
