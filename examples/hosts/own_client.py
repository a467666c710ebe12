"""A Redis with TLS, a private CA and a user of its own, or behind Sentinels; one pool of connections for all.

    pip install videopoll
    export REDIS_HOST=redis.internal REDIS_PORT=6380 REDIS_CA=/etc/redis/ca.pem
    export REDIS_USER=videopoll REDIS_PASSWORD=…
    python examples/hosts/own_client.py job_1 5491155550001

With REDIS_SENTINELS="10.0.0.1:26379,10.0.0.2:26379" it asks those where the master is.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from videopoll import RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier, VideoApiPoller

settings: dict[str, Any] = {
    "username": os.environ.get("REDIS_USER"),
    "password": os.environ.get("REDIS_PASSWORD"),
    "socket_timeout": 10,
    # What videopoll sends must not be repeated behind its back: it knows itself what may be.
    "retry": Retry(NoBackoff(), 0),
}
if "REDIS_CA" in os.environ:
    settings |= {"ssl": True, "ssl_ca_certs": os.environ["REDIS_CA"]}

if "REDIS_SENTINELS" in os.environ:
    sentinels = [
        (host, int(port)) for host, _, port in (one.rpartition(":") for one in os.environ["REDIS_SENTINELS"].split(","))
    ]
    client = Sentinel(sentinels).master_for(os.environ.get("REDIS_SERVICE", "mymaster"), **settings)
else:
    client = redis.Redis(host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]), **settings)

job_id, phone = sys.argv[1:3]
poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
ultramsg = UltraMsgNotifier(
    base_url=os.environ["ULTRAMSG_URL"], instance_id=os.environ["ULTRAMSG_INSTANCE"], token=os.environ["ULTRAMSG_TOKEN"]
)
# Whoever opens a client closes it: the queue leaves yours open.
with client, RedisVideoJobQueue(client, prefix=os.environ.get("PREFIX", "own-client")) as queue:
    with Runner(queue, poller, RoutingNotifier.from_metadata({"ultramsg": ultramsg})) as runner:
        runner.start()
        print(queue.enqueue(job_id, conversation_id=phone, metadata={"channel": "ultramsg", "to": phone}))
        outcome = queue.wait(job_id, timeout_s=300)
        queue.drain(timeout_s=60)
    print(outcome.kind.value if outcome else "not yet")
