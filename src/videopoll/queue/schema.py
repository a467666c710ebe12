"""The Redis keys of videopoll: the one list of them.

``claim.lua``, ``hand_back.lua`` and ``find_watched.lua`` repeat the names of a job's keys, and declare none of
them: which jobs they are about is found out in Redis. So it is with the lanes of tenants. A name that changes
here changes there.

Each key has a record (`KEYS`): its pattern, type, time to live, who writes it
and what for. The docs' table and the tests' leak check are drawn from it. The
first five are documented and shared with other deployments; the rest carry what
crash safety and scheduling need.

The prefix is ``video`` unless configured. As a hash tag (``{video}``) it keeps
all keys in one slot of a Redis Cluster.
"""

from __future__ import annotations

import re

import attrs

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import quoted

__all__ = ["KEYS", "KeyRecord", "Keys"]

DEFAULT_PREFIX = "video"

MAX_PREFIX_CHARS = 100


@attrs.frozen
class KeyRecord:
    """One kind of key.

    Args:
        name: What the docs call it.
        pattern: The key, with ``{prefix}`` and ``{jobId}`` (or a hash).
        type: Its Redis type.
        ttl: Its time to live, in words; None for a key that stays (and is bounded by the jobs in it).
        writer: Who writes it.
        purpose: What it is for.
    """

    name: str
    pattern: str
    type: str
    ttl: str | None
    writer: str
    purpose: str


KEYS: tuple[KeyRecord, ...] = (
    KeyRecord("job", "{prefix}:job:{jobId}", "string", "600 s (KeyTtls.job_s)", "enqueue", "the job's record, JSON"),
    KeyRecord(
        "queue", "{prefix}:poll:queue", "list", None, "enqueue, give back, hand back", "ids that wait to be taken"
    ),
    KeyRecord(
        "lock",
        "{prefix}:lock:{jobId}",
        "string",
        "60 s (KeyTtls.lock_s)",
        "claim, renew",
        "tells workers of other kinds that the job is being polled; ours start with vp:",
    ),
    KeyRecord(
        "completed",
        "{prefix}:completed:{jobId}",
        "string",
        "7200 s (KeyTtls.completed_s)",
        "settle, cancel",
        "the audit trail, JSON: how the job ended, and whether its user got it",
    ),
    KeyRecord(
        "attempts",
        "{prefix}:attempts:{jobId}",
        "string",
        "600 s (KeyTtls.attempts_s)",
        "claim",
        "polls begun, a number",
    ),
    KeyRecord(
        "schedule",
        "{prefix}:poll:schedule",
        "sorted set",
        None,
        "claim, reschedule, recover",
        "id → due ms of the next poll",
    ),
    KeyRecord(
        "tenants",
        "{prefix}:poll:tenants",
        "string",
        "1 day",
        "enqueue",
        "some producer names tenants: what is due and finds no place waits in lanes",
    ),
    KeyRecord(
        "lanes",
        "{prefix}:poll:lanes",
        "sorted set",
        "600 s (KeyTtls.job_s)",
        "claim",
        "tenant → whose turn it is, among those whose polls find no place",
    ),
    KeyRecord(
        "lane",
        "{prefix}:poll:lane:{tenant}",
        "sorted set",
        "600 s (KeyTtls.job_s)",
        "claim",
        "id → due ms of a poll that waits for its tenant's turn; the id is in the schedule, too",
    ),
    KeyRecord(
        "send lanes",
        "{prefix}:poll:send-lanes",
        "sorted set",
        "600 s (KeyTtls.job_s)",
        "claim",
        "the same as lanes, for sends",
    ),
    KeyRecord(
        "send lane",
        "{prefix}:poll:send-lane:{tenant}",
        "sorted set",
        "600 s (KeyTtls.job_s)",
        "claim",
        "the same as lane, for sends; the id is among the deliveries, too",
    ),
    KeyRecord("inflight", "{prefix}:poll:inflight", "sorted set", None, "claim, renew", "id → when its lease ends, ms"),
    KeyRecord("leases", "{prefix}:poll:leases", "hash", None, "claim", "id → fencing token of its holder"),
    KeyRecord(
        "faults",
        "{prefix}:poll:faults",
        "hash",
        "600 s (KeyTtls.job_s)",
        "reschedule",
        "id → faults in a row and last answer ms",
    ),
    KeyRecord(
        "outbox",
        "{prefix}:poll:outbox:{jobId}",
        "string",
        "delivery deadline + retention (DeliveryPolicy)",
        "conclude, begin_send, redeliver",
        "an outcome that its user has not got yet, JSON",
    ),
    KeyRecord(
        "deliveries",
        "{prefix}:poll:deliveries",
        "sorted set",
        None,
        "redeliver, redrive",
        "id → due ms of the next send",
    ),
    KeyRecord(
        "watch",
        "{prefix}:poll:watch:{jobId}",
        "string",
        "3600 s (DeliveryPolicy.watch_s)",
        "watch",
        "a delivery that its channel has accepted, JSON: a receipt may open it again",
    ),
    KeyRecord(
        "watched",
        "{prefix}:poll:watched",
        "sorted set",
        "3600 s (DeliveryPolicy.watch_s)",
        "watch",
        "id → when its watch ends, ms",
    ),
    KeyRecord(
        "sent",
        "{prefix}:poll:sent:{messageHash}",
        "string",
        "3600 s (DeliveryPolicy.watch_s)",
        "watch",
        "the job of a watched message, by a hash of the channel's id and of our reference",
    ),
    KeyRecord(
        "early",
        "{prefix}:poll:early",
        "hash",
        "600 s",
        "receive_receipts",
        "receipts of messages that are not known (yet), JSON; 10,000 at most",
    ),
    KeyRecord(
        "early times",
        "{prefix}:poll:early-times",
        "sorted set",
        "600 s",
        "receive_receipts",
        "when each of them came, ms",
    ),
    KeyRecord(
        "dead", "{prefix}:poll:dead", "sorted set", "DeadLetterPolicy.max_age_s", "settle", "id → when it died, ms"
    ),
    KeyRecord(
        "letters", "{prefix}:poll:letters", "hash", "DeadLetterPolicy.max_age_s", "settle", "id → dead letter, JSON"
    ),
    KeyRecord(
        "sweeper",
        "{prefix}:poll:sweeper",
        "string",
        "30 s beside workers of other kinds, else 120 s; 50 times as long as a look takes",
        "recover",
        "one worker has looked for lost jobs, and the others need not",
    ),
    KeyRecord(
        "history",
        "{prefix}:poll:history",
        "stream",
        "1 day (RedisHistory)",
        "RedisHistory",
        "what happened to jobs, bounded, for `explain` and `watch`; workers never read it",
    ),
    KeyRecord(
        "workers",
        "{prefix}:poll:workers",
        "sorted set",
        "1 hour (RedisHistory)",
        "RedisHistory",
        "worker → last beat ms",
    ),
    KeyRecord(
        "loads",
        "{prefix}:poll:loads",
        "hash",
        "1 hour (RedisHistory)",
        "RedisHistory",
        "worker → version, kind, load, host and process, JSON",
    ),
    KeyRecord(
        "brakes",
        "{prefix}:poll:brakes",
        "sorted set",
        "until the last pause ends, a day at most",
        "brake",
        "account of a video API → until when all workers leave it alone, ms; 1,000 at most",
    ),
    KeyRecord(
        "layout",
        "{prefix}:poll:layout",
        "string",
        None,
        "enqueue, videopoll partitions",
        "how many partitions the queue has, and since when; only with partitions",
    ),
    KeyRecord(
        "tool call",
        "{prefix}:tool:{callHash}",
        "string",
        "7200 s (KeyTtls.completed_s)",
        "VideoGeneratorTool",
        "the answer to one call of the tool, JSON: the same call again starts nothing",
    ),
)
"""Every key that videopoll writes."""

WORDS = frozenset(record.pattern.split(":")[1] for record in KEYS)
"""What stands behind the prefix. In a prefix, such a word would make its keys those of a shorter one: a queue
``video:job`` would keep its job 7 where ``video`` keeps one called ``job:7``."""


_HASH_TAG = re.compile(r"[^{]*\{[^}]+\}")
"""What stands in the first braces, if that is anything: the slot of a key goes by it alone."""


class Keys:
    """Builds the keys of one prefix.

    Args:
        prefix: What every key starts with, e.g. ``video`` or ``{video}``.

    Raises:
        ConfigurationError: The prefix is empty, too long, has characters that
            cannot be typed into ``redis-cli`` as they are, or has a word of our keys
            behind a colon.
    """

    __slots__ = (
        "brakes",
        "dead",
        "deliveries",
        "early",
        "early_times",
        "faults",
        "history",
        "inflight",
        "lanes",
        "layout",
        "leases",
        "letters",
        "loads",
        "prefix",
        "queue",
        "schedule",
        "send_lanes",
        "sweeper",
        "tenants",
        "watched",
        "workers",
    )

    def __init__(self, prefix: str = DEFAULT_PREFIX) -> None:
        if (
            not isinstance(prefix, str)
            or not 1 <= len(prefix) <= MAX_PREFIX_CHARS
            or not prefix.isascii()
            or not prefix.isprintable()
            or any(character in prefix for character in " *?[]\\\"'")
        ):
            msg = (
                f"the key prefix must be 1 to {MAX_PREFIX_CHARS} printable ASCII characters without spaces,"
                f" quotes or the pattern characters *?[]\\, got {quoted(prefix, text=True)}"
            )
            raise ConfigurationError(msg)
        taken = [word for word in prefix.split(":")[1:] if word in WORDS]
        if taken:
            msg = (
                f"the key prefix {prefix!r} has the word {taken[0]!r} of our own keys behind a colon: its keys would be"
                f" those of the prefix before it. Choose another word, e.g. {prefix.replace(f':{taken[0]}', '-' + taken[0])!r}"
            )
            raise ConfigurationError(msg)
        self.prefix: str = prefix
        self.queue: str = f"{prefix}:poll:queue"
        self.schedule: str = f"{prefix}:poll:schedule"
        self.inflight: str = f"{prefix}:poll:inflight"
        self.leases: str = f"{prefix}:poll:leases"
        self.faults: str = f"{prefix}:poll:faults"
        self.deliveries: str = f"{prefix}:poll:deliveries"
        self.tenants: str = f"{prefix}:poll:tenants"
        self.lanes: str = f"{prefix}:poll:lanes"
        self.send_lanes: str = f"{prefix}:poll:send-lanes"
        self.watched: str = f"{prefix}:poll:watched"
        self.early: str = f"{prefix}:poll:early"
        self.early_times: str = f"{prefix}:poll:early-times"
        self.dead: str = f"{prefix}:poll:dead"
        self.letters: str = f"{prefix}:poll:letters"
        self.sweeper: str = f"{prefix}:poll:sweeper"
        self.history: str = f"{prefix}:poll:history"
        self.workers: str = f"{prefix}:poll:workers"
        self.loads: str = f"{prefix}:poll:loads"
        self.brakes: str = f"{prefix}:poll:brakes"
        self.layout: str = f"{prefix}:poll:layout"

    @property
    def fixed(self) -> tuple[str, ...]:
        """The keys that every script gets first, in this order."""
        return (self.queue, self.schedule, self.inflight, self.leases, self.faults, self.deliveries)

    @property
    def in_one_slot(self) -> bool:
        """Whether the prefix has a hash tag, which keeps all keys in one slot of a Redis Cluster."""
        return _HASH_TAG.match(self.prefix) is not None

    def job(self, job_id: str) -> str:
        """The job's record."""
        return f"{self.prefix}:job:{job_id}"

    def lock(self, job_id: str) -> str:
        """The lock that other kinds of workers respect, and we respect of theirs."""
        return f"{self.prefix}:lock:{job_id}"

    def attempts(self, job_id: str) -> str:
        """The poll counter."""
        return f"{self.prefix}:attempts:{job_id}"

    def completed(self, job_id: str) -> str:
        """The audit trail."""
        return f"{self.prefix}:completed:{job_id}"

    def ended(self, job_id: str) -> str:
        """The channel on which the end of a job's polling is published."""
        return self.outbox(job_id)

    def outbox(self, job_id: str) -> str:
        """The outcome that is not delivered yet."""
        return f"{self.prefix}:poll:outbox:{job_id}"

    def lane(self, tenant: str) -> str:
        """The polls of a tenant that are due and wait for its turn; '' for those of jobs without one."""
        return f"{self.prefix}:poll:lane:{tenant}"

    def send_lane(self, tenant: str) -> str:
        """The sends of a tenant that are due and wait for its turn."""
        return f"{self.prefix}:poll:send-lane:{tenant}"

    def watch(self, job_id: str) -> str:
        """The delivery that its channel has accepted."""
        return f"{self.prefix}:poll:watch:{job_id}"

    def sent(self, name_hash: str) -> str:
        """The job of a message, by the hash of a name that receipts have for it."""
        return f"{self.prefix}:poll:sent:{name_hash}"

    def tool_call(self, call_id_hash: str) -> str:
        """The answer to one call of the OpenAI tool. Its id comes from outside, so it is hashed by the caller."""
        return f"{self.prefix}:tool:{call_id_hash}"

    def of_job(self, job_id: str) -> tuple[str, str, str, str, str]:
        """The five keys of one job, in the order that every script gets them."""
        return (
            self.job(job_id),
            self.outbox(job_id),
            self.lock(job_id),
            self.attempts(job_id),
            self.completed(job_id),
        )
