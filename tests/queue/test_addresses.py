"""What a URL of Redis may look like, and what is said of one that leads nowhere."""

from __future__ import annotations

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from videopoll import AsyncRedisVideoJobQueue, ConfigurationError, RedisVideoJobQueue
from videopoll.queue.address import Way, read_address


def class_of(kind: str):
    return RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue


@pytest.mark.parametrize(
    ("url", "way", "plain", "nodes", "service"),
    [
        ("redis://h:1/2", Way.DIRECT, "redis://h:1/2", (), ""),
        ("unix:///run/redis.sock?db=3", Way.DIRECT, "unix:///run/redis.sock?db=3", (), ""),
        ("redis+sentinel://h/video", Way.SENTINEL, "redis://h/", (("h", 26379),), "video"),
        (
            "redis+sentinel://user:p%40w@h1,h2:26380,[::1]/my%20master/3?client_name=me",
            Way.SENTINEL,
            "redis://user:p%40w@h1/3?client_name=me",
            (("h1", 26379), ("h2", 26380), ("::1", 26379)),
            "my master",
        ),
        (
            "rediss+sentinel://:p@h/video?ssl_ca_certs=/a%20b.pem",
            Way.SENTINEL,
            "rediss://:p@h/?ssl_ca_certs=%2Fa+b.pem",
            (("h", 26379),),
            "video",
        ),
        ("redis+cluster://h1,h2:7000", Way.CLUSTER, "redis://h1/", (("h1", 6379), ("h2", 7000)), ""),
        ("rediss+cluster://u:p@h1/0", Way.CLUSTER, "rediss://u:p@h1/0", (("h1", 6379),), ""),
    ],
)
def test_a_url_is_read(url, way, plain, nodes, service):
    address = read_address(url)

    assert (address.way, address.url, address.nodes, address.service) == (way, plain, nodes, service)


def test_the_sentinels_have_a_user_and_a_password_of_their_own():
    """They are not told the server's, nor is the server told theirs."""
    address = read_address("redis+sentinel://u:p@h/video?sentinel_username=s&sentinel_password=t%26&db=2")

    assert address.sentinel == {"username": "s", "password": "t&"}
    assert address.url == "redis://u:p@h/?db=2"


def test_an_address_shows_no_secret():
    shown = repr(read_address("redis+sentinel://u:secret@h/video?sentinel_password=secret"))

    assert "secret" not in shown


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://:secret@h1,h2", r"name the service .* redis\+sentinel://host1,host2/mymaster/0$"),
        ("redis+sentinel://:secret@h1/", "name the service"),
        ("redis+sentinel://:secret@h1/a/b", "it looks like"),
        ("redis+sentinel://:secret@h1/a/1/2", "it looks like"),
        ("redis+sentinel://:secret@/a", "it looks like"),
        ("redis+sentinel://:secret@h1,,h2/a", "it looks like"),
        ("redis+sentinel://:secret@h1:port/a", "it looks like"),
        ("redis+sentinel://h/a?sentinel_pasword=secret", "sentinel_username and sentinel_password"),
        ("redis+cluster://:secret@h1/1", "only database 0"),
        ("redis+cluster://:secret@h1?db=1", "only database 0"),
        ("redis+cluster://:secret@h1/video", "it looks like"),
        ("redis+cluster://", "it looks like"),
        ("redis+cluster://:secret@h1?require_full_coverage=1", "an option behind its"),
        ("redis://:secret@h1,h2/0", r"names several hosts: write redis\+sentinel://"),
        ("redis+sentinal://:secret@h1/video", "it looks like"),
        ("redis-sentinel://:secret@h1/video", r"it looks like .* redis\+sentinel://"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_without_repeating_it(kind, url, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        class_of(kind).from_url(url, prefix="{video}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["video", "{}video"])
def test_a_cluster_without_a_hash_tag_is_refused_at_the_construction(kind, prefix):
    """The first call would be refused with CROSSSLOT, in a worker that has started."""
    with pytest.raises(
        ConfigurationError, match=r"in one slot: make the prefix a hash tag, such as prefix='\{video\}'"
    ):
        class_of(kind).from_url("redis+cluster://127.0.0.1:1", prefix=prefix)


def test_a_queue_tells_where_it_leads_without_secrets(kind):
    def shown(url):
        return repr(class_of(kind).from_url(url, prefix="{video}"))

    assert "redis='sentinels h1:26379,h2:5 service video'" in shown("redis+sentinel://u:secret@h1,h2:5/video")
    assert "redis='cluster h1:6379'" in shown("redis+cluster://u:secret@h1?client_name=secret")


def test_a_certificate_that_cannot_be_used_is_refused_at_the_construction(kind, tmp_path):
    """Else each connection would say that a file is not there, from a worker that has started."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for query, says in (
        ("ssl_ca_certs=/no/ca.pem", "ssl_ca_certs, the certificates to trust: No such file"),
        (f"ssl_ca_certs={broken}", "certificates to trust: no such PEM file"),
        (f"ssl_certfile={broken}&ssl_keyfile={broken}", "own certificate and its key: no such PEM file"),
        (f"ssl_keyfile={broken}", "own certificate and its key: No such file"),
    ):
        for url in (f"rediss://:secret@h/0?{query}", f"rediss+cluster://:secret@h?{query}"):
            with pytest.raises(ConfigurationError, match=says) as caught:
                class_of(kind).from_url(url, prefix="{video}")
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster", "rediss+sentinel"])
def test_no_url_turns_the_check_of_certificates_off(kind, scheme):
    for option in ("ssl_cert_reqs=none", "ssl_check_hostname=false"):
        with pytest.raises(ConfigurationError, match="turns off the check"):
            class_of(kind).from_url(
                f"{scheme}://h/video?{option}".replace("cluster://h/video", "cluster://h"), prefix="{video}"
            )


def test_a_hosts_client_of_sentinel_is_taken(kind):
    """Its own retries are off, as a claim must not run twice."""
    if kind == "sync":
        client = redis.Sentinel([("127.0.0.1", 1)]).master_for("video", retry=Retry(NoBackoff(), 0))
    else:
        from redis.asyncio.retry import Retry as AsyncRetry

        client = redis.asyncio.Sentinel([("127.0.0.1", 1)]).master_for("video", retry=AsyncRetry(NoBackoff(), 0))
    queue = class_of(kind)(client)
    assert "redis='sentinels 127.0.0.1:1 service video'" in repr(queue)
    assert queue.open_history() is not None
