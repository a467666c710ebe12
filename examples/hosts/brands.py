"""Many brands in one Redis and in one process: each has keys, a number, texts and places of its own.

    pip install videopoll
    python examples/hosts/brands.py work &
    python examples/hosts/brands.py order acme job_1 5491155550001
    videopoll status --redis-url $REDIS_URL --prefix brands-acme

A prefix for each brand keeps its jobs apart from the others': they can be looked at, drained and deleted alone,
and one brand's rush takes no place from another's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import attrs

from videopoll import RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier, VideoApiPoller
from videopoll.texts import ENGLISH, Texts

# What you have in a database: the sentence that a brand's customers read.
BRANDS = {"acme": "🎬 Acme has made your video!", "globex": "🎬 Your Globex video is here!"}
SPACE = os.environ.get("PREFIX", "brands")


def queue_of(brand: str) -> RedisVideoJobQueue:
    return RedisVideoJobQueue.from_url(os.environ["REDIS_URL"], prefix=f"{SPACE}-{brand}")


def order(brand: str, job_id: str, phone: str) -> None:
    with queue_of(brand) as queue:
        print(queue.enqueue(job_id, conversation_id=phone, metadata={"channel": "ultramsg", "to": phone}))


def work() -> None:
    # One poller for all: it has the connections to the video API. A brand with a key of its own gets one of its own.
    poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
    with contextlib.ExitStack() as running:
        for brand, sentence in BRANDS.items():
            queue = running.enter_context(queue_of(brand))
            ultramsg = UltraMsgNotifier(
                base_url=os.environ["ULTRAMSG_URL"],
                instance_id=os.environ["ULTRAMSG_INSTANCE"],  # each brand's own
                token=os.environ["ULTRAMSG_TOKEN"],
            )
            runner = Runner(
                queue,
                poller,
                RoutingNotifier.from_metadata({"ultramsg": ultramsg}),
                texts=Texts({"en": attrs.evolve(ENGLISH, done=sentence)}, default="en"),
                concurrency=4,
                delivery_concurrency=2,
            )
            running.enter_context(runner).start()
        # The end of the block stops them all.
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    if sys.argv[1] == "work":
        # Before the first thread: all that come inherit it, so that only `sigwait` gets them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        work()
    else:
        order(*sys.argv[2:5])
