"""Clients and users: what a queue is built with, and what Redis has to allow."""

from __future__ import annotations

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from kit.bench import LEASE, hand_back, recover
from kit.fleets import SLOT_OF_TESTS
from videopoll import (
    AsyncRedisVideoJobQueue,
    ConfigurationError,
    DeadLetterPolicy,
    RedisVideoJobQueue,
)
from videopoll.errors import InvalidJobError, QueueRefusedError
from videopoll.jobs import DeadLetter, JobState
from videopoll.jobs.transition import (
    BeginSend,
    Conclude,
    Redeliver,
    Release,
    Reschedule,
    Settle,
)


def user_of(bench) -> str:
    """Name the user of a test; without braces, which a URL may not have."""
    return "user-" + bench.prefix.removeprefix(SLOT_OF_TESTS)


@pytest.fixture
def restricted(bench, redis_server):
    """A queue whose user may neither SCAN nor KEYS, and may touch no key of another prefix."""
    name = user_of(bench)
    bench.db.acl_setuser(
        name, enabled=True, passwords=["+secret"], keys=[f"{bench.prefix}:*"], commands=["+@all", "-scan", "-keys"]
    )
    bench.another(bench.url.replace("://", f"://{name}:secret@"))
    yield bench
    bench.db.acl_deluser(name)


def test_a_user_without_scan_and_keys_can_do_everything_but_recover(restricted):
    """Operators forbid both on large servers."""
    bench = restricted
    claim = bench.one("job_1")
    bench.call(bench.queue.renew([(claim.job_id, claim.token, True)], LEASE))
    bench.apply(Reschedule(claim, 1, 1))
    bench.apply(Release(bench.claim()[0]))
    (claim,) = bench.claim()
    entry = bench.entry(claim)
    bench.apply(
        Conclude(claim, entry, 600, 12_000), BeginSend(claim, entry, 600, 9000), Redeliver(claim, entry, 600, 1)
    )
    (claim,) = bench.claim()
    bench.apply(Settle(claim, "{}", DeadLetter("job_1", "why", bench.now_ms(), entry=entry)))
    assert bench.call(bench.queue.dead_letters.redrive_all()) == 1
    bench.enqueue("job_2")
    bench.call(bench.queue.cancel("job_2", notify=True))
    assert bench.get("job_2").state is JobState.OUTBOX
    assert bench.counts().deliveries == 2
    assert bench.call(bench.queue.wait_for_work(0.01)) is False
    assert hand_back(bench).sends == 2
    with pytest.raises(QueueRefusedError, match="may not run a command"):
        recover(bench)


def test_a_user_who_may_not_touch_the_keys_is_told_so(restricted):
    """The text says what to grant; no id and no prompt is in it."""
    url = restricted.url.replace("://", f"://{user_of(restricted)}:secret@")
    other = restricted.another(url, prefix=f"{SLOT_OF_TESTS}forbidden")
    with pytest.raises(QueueRefusedError) as caught:
        restricted.call(other.enqueue("secret-id", conversation_id="c", metadata={"prompt": "secret wish"}))
    assert "secret" not in str(caught.value)


def client_of(kind: str, **options):
    """Build a client of the queue's kind, which is not connected."""
    module = redis if kind == "sync" else redis.asyncio
    return module.Redis(**options)


def queue_of(kind: str, *args, **options):
    """Build a queue on clients."""
    return class_of(kind)(*args, **options)


def class_of(kind: str):
    """Return the queue's class."""
    return RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue


def never(kind: str):
    """Give a policy of no retries."""
    if kind == "sync":
        return Retry(NoBackoff(), 0)
    return AsyncRetry(NoBackoff(), 0)


def test_a_client_that_retries_is_refused(kind):
    """A claim that is run twice leases jobs to nobody."""
    retries = client_of(kind, retry=(Retry if kind == "sync" else AsyncRetry)(NoBackoff(), 1))
    with pytest.raises(ConfigurationError, match="must not retry"):
        queue_of(kind, retries)
    fine = client_of(kind, retry=never(kind))
    for role in ("front", "blocking"):
        with pytest.raises(ConfigurationError, match="must not retry"):
            queue_of(kind, fine, **{role: retries})
    assert queue_of(kind, fine).keys.prefix == "video"


@pytest.mark.skipif(redis.__version__.startswith("5."), reason="a client of redis-py 5 retries only if it is told to")
def test_a_client_that_nobody_told_to_retry_does_and_is_refused(kind):
    """The client's own default is ten retries."""
    with pytest.raises(ConfigurationError, match="must not retry"):
        queue_of(kind, client_of(kind))


def test_a_client_that_decodes_is_refused(kind):
    """An id in Redis may be no text."""
    with pytest.raises(ConfigurationError, match="must not decode"):
        queue_of(kind, client_of(kind, decode_responses=True, retry=never(kind)))


def test_a_client_of_the_other_kind_is_refused(kind):
    """The sentence names both classes, and the other queue."""
    other, needed, got, way_out = {
        "sync": ("async", "redis.Redis", "redis.asyncio.Redis", "AsyncRedisVideoJobQueue"),
        "async": ("sync", "redis.asyncio.Redis", "redis.Redis", "RedisVideoJobQueue"),
    }[kind]
    with pytest.raises(ConfigurationError, match=f"needs a {needed} client, got {got}: use {way_out} for it$"):
        queue_of(kind, client_of(other, retry=never(other)))


@pytest.mark.parametrize("client", ["redis://:secret@h", b"redis://:secret@h"])
def test_a_url_in_place_of_a_client_is_refused(kind, client):
    """The sentence says where a URL goes, and does not repeat it."""
    with pytest.raises(ConfigurationError, match=r"a URL goes into (Async)?RedisVideoJobQueue\.from_url$") as caught:
        queue_of(kind, client)
    assert "secret" not in str(caught.value)


def test_a_client_of_a_cluster_of_the_other_kind_is_refused(kind):
    other, way_out = {
        "sync": (redis.asyncio.RedisCluster, "AsyncRedisVideoJobQueue"),
        "async": (redis.RedisCluster, "RedisVideoJobQueue"),
    }[kind]
    # Built without a server, which the constructor of one of them would ask.
    with pytest.raises(ConfigurationError, match=rf"got redis\.\S*RedisCluster: use {way_out} for it$"):
        queue_of(kind, other.__new__(other))


@pytest.mark.parametrize("client", [None, 5, object()], ids=["None", "a number", "an object"])
def test_what_is_no_client_is_refused(kind, client):
    """At the construction, and in every role; no front or blocking client is None."""
    needed = "redis.Redis" if kind == "sync" else "redis.asyncio.Redis"
    with pytest.raises(ConfigurationError, match=f"needs a {needed} client, got {type(client).__name__}$"):
        queue_of(kind, client)
    if client is None:
        return
    for role in ("front", "blocking"):
        with pytest.raises(ConfigurationError, match=f"got {type(client).__name__}$"):
            queue_of(kind, client_of(kind, retry=never(kind)), **{role: client})


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1", "http://x", "redis://127.0.0.1:port/0", "redis://127.0.0.1:1/0?socket_timeout=x"]
)
def test_a_url_that_cannot_be_read_is_refused_without_repeating_it(kind, url):
    """It may hold a password."""
    with pytest.raises(ConfigurationError, match="it looks like redis://"):
        class_of(kind).from_url(url)


def test_a_queue_does_not_print_its_password(kind):
    """Not in a traceback either."""
    assert "secret" not in repr(class_of(kind).from_url("redis://user:secret@127.0.0.1:1/0"))


@pytest.mark.parametrize("url", [None, 6379, b"redis://h"], ids=["None", "a number", "bytes"])
def test_what_is_no_url_is_refused(kind, url):
    """Most often a variable of the environment that is not set."""
    with pytest.raises(
        ConfigurationError, match=r"URL must be a string such as redis://\S+, got .* is the variable set"
    ):
        class_of(kind).from_url(url)


@pytest.mark.parametrize("query", ["foo=1", "ssl_cert_reqs=none"])
def test_an_option_that_is_none_is_refused_at_the_construction(kind, query):
    """In a URL, and in a client of the host's: the first call would raise what no except clause expects."""
    url = f"redis://:secret@127.0.0.1:1/0?{query}"
    with pytest.raises(ConfigurationError, match="an option behind its") as caught:
        class_of(kind).from_url(url)
    assert "secret" not in str(caught.value)

    module = redis if kind == "sync" else redis.asyncio
    with pytest.raises(ConfigurationError, match="has an option that its connections do not know"):
        queue_of(kind, module.Redis.from_url(url, retry=never(kind)))


@pytest.mark.parametrize("option", ["retry_on_timeout=true", "retry_on_error=x"])
def test_a_client_of_a_url_that_makes_its_connections_retry_is_refused(kind, option):
    """The client has no retry of its own: its connections make one."""
    module = redis if kind == "sync" else redis.asyncio
    client = module.Redis.from_url(f"redis://127.0.0.1:1/0?{option}")
    with pytest.raises(ConfigurationError, match="must not retry"):
        queue_of(kind, client)


def test_options_that_come_to_no_retry_are_taken(kind):
    """What counts is what a connection does in the end; and a queue's own connections never retry."""
    url = "redis://127.0.0.1:1/0?retry_on_timeout=true"
    module = redis if kind == "sync" else redis.asyncio
    pool = module.ConnectionPool.from_url(url, retry=never(kind))
    queue_of(kind, module.Redis(connection_pool=pool))

    queue = class_of(kind).from_url(url)
    pool = queue._client.connection_pool
    assert pool.connection_class(**pool.connection_kwargs).retry._retries == 0


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_check_hostname=false", "ssl_check_hostname=0"])
def test_a_url_does_not_turn_the_check_of_certificates_off(kind, option):
    """A client of the host's own may; what it is built with is the host's affair."""
    url = f"rediss://:secret@127.0.0.1:1/0?{option}"
    with pytest.raises(ConfigurationError, match=r"turns off the check .* ssl_ca_certs=") as caught:
        class_of(kind).from_url(url)
    assert "secret" not in str(caught.value)

    module = redis if kind == "sync" else redis.asyncio
    queue_of(kind, module.Redis.from_url(url, retry=never(kind)))


def test_the_name_in_a_certificate_is_checked(kind, call):
    """Older clients of Redis do not, unless they are told to; under asyncio each event loop has a pool of its own."""
    pool = class_of(kind).from_url("rediss://127.0.0.1:1/0")._client.connection_pool

    async def pool_here():
        return pool._pools.here()

    for one in (pool, pool if kind == "sync" else call(pool_here())):
        assert one.connection_kwargs["ssl_check_hostname"] is True


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ttls": 600}, r"ttls must be a KeyTtls, got int"),
        ({"dead_letters": 5}, r"dead_letters must be a DeadLetterPolicy, got int"),
        ({"delivery": DeadLetterPolicy()}, r"delivery must be a DeliveryPolicy, got DeadLetterPolicy"),
        ({"hooks": print}, r"hooks must be a list of functions of an event, got builtin_function_or_method: put it"),
        ({"hooks": [None]}, r"a hook must be a function of an event, got NoneType"),
        ({"prefix": None}, r"the key prefix must be"),
        ({"front_timeout_s": "2"}, r"front_timeout_s must be a finite number of seconds, got '2' \(a string"),
        ({"worker_timeout_s": None}, r"worker_timeout_s must be a finite number of seconds, got None"),
        ({"front_timeout_s": 0}, r"front_timeout_s must be more than 0, got 0"),
        ({"max_connections": 0}, r"max_connections must be a whole number of at least 1, got 0"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused_by_its_name(kind, options, says):
    with pytest.raises(ConfigurationError, match=says):
        class_of(kind).from_url("redis://127.0.0.1:1/0", **options)


def test_a_hook_that_would_have_to_be_awaited_is_refused(kind):
    """Nobody would await it: its events would be lost, with a warning at best."""

    async def hook(event):
        pass

    class Hook:
        async def __call__(self, event):
            pass

    for one in (hook, Hook()):
        with pytest.raises(ConfigurationError, match="a hook must not be async"):
            class_of(kind).from_url("redis://127.0.0.1:1/0", hooks=[one])


@pytest.mark.parametrize("timeout_s", ["5", None, float("nan"), float("inf")], ids=str)
def test_a_wait_of_no_known_length_is_refused(bench, timeout_s):
    bench.enqueue()
    for method in (lambda **options: bench.queue.wait("job_1", **options), bench.queue.drain):
        with pytest.raises(ConfigurationError, match=r"timeout_s must be a finite number of seconds"):
            bench.call(method(timeout_s=timeout_s))


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda queue: queue.history(5), InvalidJobError, "job_id must be a string, got int"),
        (lambda queue: queue.history(limit="5"), ConfigurationError, r"history\.limit must be a whole number"),
        (lambda queue: queue.dead_letters.get(None), InvalidJobError, "job_id must be a string, got NoneType"),
        (lambda queue: queue.dead_letters.redrive(None), InvalidJobError, "job_id must be a string, got NoneType"),
        (lambda queue: queue.dead_letters.list(limit="5"), ConfigurationError, r"list\.limit must be a whole number"),
        (lambda queue: queue.dead_letters.list(offset=-1), ConfigurationError, r"list\.offset must be a whole number"),
        (lambda queue: queue.get(None), InvalidJobError, "job_id must be a string, got NoneType"),
        (lambda queue: queue.cancel(7), InvalidJobError, "job_id must be a string, got int"),
        (lambda queue: queue.poll_now(None), InvalidJobError, "job_id must be a string, got NoneType"),
    ],
)
def test_an_argument_of_a_call_that_cannot_be_is_refused(bench, ask, error, says):
    async def asked():
        return await ask(bench.queue)

    with pytest.raises(error, match=says):
        ask(bench.queue) if bench.kind == "sync" else bench.call(asked())
