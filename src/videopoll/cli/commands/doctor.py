"""``videopoll doctor``: looks at all that a deployment stands on, and says what to fix. Changes nothing."""

from __future__ import annotations

import enum
import functools
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Annotated, cast
from urllib.parse import quote

import attrs
import redis
import typer
from redis import exceptions as redis_errors
from rich.console import Console
from rich.table import Table
from rich.text import Text

from videopoll._http import Http, HttpFailure, HttpRequest
from videopoll.cli.figures import Figures, held_lines, read_figures
from videopoll.cli.options import (
    API_KEY,
    DEFAULT_API_URL,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    DEFAULT_ULTRAMSG_URL,
    ULTRAMSG_TOKEN,
    WHATSAPP_FACTORY_TOKEN,
    AsJson,
    GivenApiUrl,
    OwnChannels,
    Partitions,
    Prefix,
    Providers,
    RedisUrl,
    UltraMsgInstance,
    UltraMsgUrl,
    WhatsAppFactoryInstance,
    WhatsAppFactoryUrl,
    open_client,
    open_queue,
    secret,
)
from videopoll.cli.output import complain, duration, guarded, print_json, print_rows
from videopoll.cli.partitions import look_at_partitions
from videopoll.cli.providers import described, health_of, made_up_job, url_of
from videopoll.cli.shipped import SHIPPED, is_configured, problem_of
from videopoll.errors import ConfigurationError, QueueError
from videopoll.jobs.job import VideoJob
from videopoll.jobs.urls import check_url
from videopoll.notifiers.whatsapp_factory import text_url
from videopoll.observations import Fault, FaultKind
from videopoll.observe.log import shown
from videopoll.observe.redact import redact
from videopoll.queue.errors import queue_errors
from videopoll.queue.partitioned_queue import PartitionedQueue
from videopoll.queue.routes import route_of
from videopoll.queue.schema import KEYS, Keys
from videopoll.queue.scripts import read, run
from videopoll.video_api.apis import ALL
from videopoll.video_api.description import ApiDescription, variable_part
from videopoll.video_api.http_poller import HttpVideoPoller
from videopoll.video_api.poller import VideoApiPoller

__all__ = ["doctor"]

OLDEST_VERSION = (6, 2)
"""The first Redis with BLMOVE."""

CLOCK_OFF_S = 5.0
"""Clocks that differ by more than this, in seconds, make logs and signed URLs hard to trust."""

FULL = 0.9
"""A Redis that uses more than this part of its memory is about to refuse jobs."""

HTTP_TIMEOUT_S = 10.0

GOOD_INSTANCE = "authenticated"
RESOLVER = "VIDEOPOLL_RESOLVER"


class Mark(enum.StrEnum):
    """How a check came out."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing has to be done."""
    WRONG = "wrong"


@attrs.frozen
class Finding:
    """One check.

    Args:
        check: What was looked at.
        mark: How it came out.
        found: What was found.
        fix: What to do about it.
    """

    check: str
    mark: Mark
    found: str
    fix: str | None = None


@guarded
def doctor(
    *,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
    api_url: GivenApiUrl = None,
    provider: Providers = None,
    ultramsg_url: UltraMsgUrl = DEFAULT_ULTRAMSG_URL,
    ultramsg_instance: UltraMsgInstance = None,
    whatsapp_factory_url: WhatsAppFactoryUrl = None,
    whatsapp_factory_instance: WhatsAppFactoryInstance = None,
    channel: OwnChannels = None,
    clock: Annotated[
        bool, typer.Option("--clock/--no-clock", help="Compare this machine's clock with Redis's.")
    ] = True,
) -> None:
    """Check Redis, the keys, the workers, the video API and the messengers; say what to fix.

    Give it the environment of a worker: VIDEOPOLL_API_KEY, VIDEOPOLL_ULTRAMSG_TOKEN,
    VIDEOPOLL_WHATSAPP_FACTORY_TOKEN, the keys of providers and the rest. It asks the
    video APIs that living workers poll, and those that you name. It changes nothing and sends
    nothing: WhatsApp Factory is asked to send an empty text to nobody, which it
    refuses, to try the key. Of the channels that `videopoll channels` lists it looks at the
    form of the variables alone. The exit code is 1 if something is wrong.
    """
    findings = check_redis(redis_url, prefix, clock=clock, partitions=partitions)
    findings += check_apis(
        api_url, [described(name) for name in provider or ()], apis_in_use(redis_url, prefix, partitions)
    )
    findings.append(check_ultramsg(ultramsg_url, ultramsg_instance, secret(ULTRAMSG_TOKEN)))
    findings.append(
        check_whatsapp_factory(whatsapp_factory_url, whatsapp_factory_instance, secret(WHATSAPP_FACTORY_TOKEN))
    )
    findings += check_channels(channel or ())
    wrong = sum(finding.mark is Mark.WRONG for finding in findings)
    if as_json:
        print_json({"healthy": not wrong, "findings": [attrs.asdict(finding) for finding in findings]})
    else:
        _print(findings)
        complain(f"{wrong} thing{'' if wrong == 1 else 's'} to fix" if wrong else "nothing is wrong")
    if wrong:
        raise typer.Exit(1)


# --- Redis ---


def check_redis(redis_url: str, prefix: str, *, clock: bool = True, partitions: int | None = None) -> list[Finding]:
    """Look at the servers, at the fixed keys of all partitions, and at what the queue says of itself."""
    findings: list[Finding] = []
    keys: list[Finding] = []
    servers = set[str | None]()
    looked_at = 0
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
        for partition in queue.partitions:
            with open_client(redis_url, partition.keys.prefix) as client:
                try:
                    run(read(client, "looking at Redis", client.ping))
                except QueueError as error:
                    if len(queue.partitions) > 1:
                        # Told with the partitions.
                        continue
                    fix = "check that it runs, the URL (--redis-url, VIDEOPOLL_REDIS_URL), and the user and password in it"
                    return [Finding("Redis", Mark.WRONG, str(error), fix)]
                server = _server_of(client)
                if not servers:
                    findings += _check_one(client, partition.keys, clock=clock)
                elif server not in servers:
                    # What is as it should be is told once.
                    findings += [
                        attrs.evolve(one, check=f"{one.check} of {partition.keys.prefix}")
                        for one in _check_one(client, partition.keys, clock=clock)
                        if one.mark is not Mark.OK
                    ]
                servers.add(server)
                keys += _tried("keys", client, functools.partial(_check_types, keys=partition.keys))
                looked_at += 1
        fixed = len(_fixed_keys(queue.keys)) * looked_at
        if looked_at:
            findings += keys or [Finding("keys", Mark.OK, f"{fixed} fixed keys have their types")]
        return [*findings, *check_partitions(queue), *_check_queue(read_figures(queue))]


def _check_one(client: redis.Redis, keys: Keys, *, clock: bool) -> list[Finding]:
    """Look at one server."""
    checks: list[tuple[str, Callable[[redis.Redis], list[Finding]]]] = [
        ("Redis server", _check_server),
        ("cluster", lambda one: _check_cluster(one, keys)),
        ("memory", _check_memory),
        ("persistence", _check_persistence),
        ("lost jobs", _check_scan),
    ]
    if clock:
        checks.append(("clock", _check_clock))
    return [finding for name, check in checks for finding in _tried(name, client, check)]


def _tried(name: str, client: redis.Redis, check: Callable[[redis.Redis], list[Finding]]) -> list[Finding]:
    try:
        with queue_errors(name):
            return check(client)
    except QueueError as error:
        return [Finding(name, Mark.NOTE, f"cannot be checked: {error}")]


def _server_of(client: redis.Redis) -> str | None:
    """Return what tells a server from the others; None where that may not be asked."""
    try:
        with queue_errors("looking at Redis"):
            return str(_info(client, "server").get("run_id"))
    except QueueError:
        return None


def check_partitions(queue: PartitionedQueue) -> list[Finding]:
    """Look at each partition of the queue, if it has several."""
    if len(queue.partitions) < 2:  # noqa: PLR2004
        return []
    states = look_at_partitions(queue)
    findings = [
        Finding(state.prefix, Mark.WRONG, f"does not answer: {state.error}", "its jobs wait; the others go on")
        for state in states
        if state.error is not None
    ]
    answering = [state for state in states if state.error is None]
    for state in answering:
        if state.waiting and not state.workers:
            fix = f"start a worker that serves it: without --serve, or with --serve {state.number}"
            found = "jobs wait, and no worker that can be seen serves it"
            findings.append(Finding(state.prefix, Mark.WRONG, found, fix))
        # One that was never told takes in jobs for whoever knows of the others: those that are at home there anyway.
        if state.knows is not None and 1 < state.knows < len(states):
            found = f"knows of {state.knows} partitions, others of {len(states)}"
            fix = f"tell all of them: videopoll partitions --raise-to {len(states)}"
            findings.append(Finding(state.prefix, Mark.NOTE, found, fix))
    clocks = [state.clock_s for state in answering]
    apart_s = max(clocks, default=0.0) - min(clocks, default=0.0)
    if apart_s > CLOCK_OFF_S:
        fix = "turn on NTP on all nodes: deadlines of jobs are told on their clocks"
        findings.append(Finding("clocks", Mark.NOTE, f"those of the partitions differ by {duration(apart_s)}", fix))
    if len(states) > 1 and not findings:
        findings.append(Finding("partitions", Mark.OK, f"{len(states)}, all of them served or empty"))
    return findings


def _info(client: redis.Redis, section: str) -> Mapping[str, object]:
    return cast("Mapping[str, object]", client.info(section))


def _check_server(client: redis.Redis) -> list[Finding]:
    server = _info(client, "server")
    valkey = server.get("valkey_version")
    name, version = ("Valkey", str(valkey)) if valkey else ("Redis", str(server.get("redis_version", "")))
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    found = [Finding("version", Mark.OK, f"{name} {version}")]
    if numbers < OLDEST_VERSION:
        found = [Finding("version", Mark.WRONG, f"{name} {version}", "upgrade to Redis 6.2 or newer, or to Valkey")]
    if _info(client, "replication").get("role") == "slave":
        fix = "point --redis-url at the primary: a replica takes no writes"
        found.append(Finding("role", Mark.WRONG, "it is a replica", fix))
    return found


def _check_cluster(client: redis.Redis, keys: Keys) -> list[Finding]:
    """Look whether a node of a Redis Cluster can have all keys of the prefix."""
    if not _number(_info(client, "cluster").get("cluster_enabled")):
        return []
    if keys.in_one_slot and route_of(client) is not None:
        return [
            Finding("cluster", Mark.OK, "a cluster; the prefix keeps all keys in one slot, and its node is followed")
        ]
    if keys.in_one_slot:
        fix = "write redis+cluster:// in --redis-url: then a failover and a slot that moves are followed"
        return [Finding("cluster", Mark.NOTE, "a node of a cluster; the prefix keeps all keys in one slot", fix)]
    fix = (
        "make the prefix a hash tag, such as --prefix '{video}', and write redis+cluster:// in --redis-url, for workers"
        " and producers: else every call is refused"
    )
    found = f"a node of a cluster, and the prefix {keys.prefix} has no hash tag: its keys are in many slots"
    return [Finding("cluster", Mark.WRONG, found, fix)]


def _check_memory(client: redis.Redis) -> list[Finding]:
    memory = _info(client, "memory")
    limit, used = (_number(memory.get(name)) for name in ("maxmemory", "used_memory"))
    policy = str(memory.get("maxmemory_policy", "unknown"))
    found = []
    if policy == "noeviction":
        found.append(Finding("eviction", Mark.OK, "noeviction"))
    else:
        fix = "CONFIG SET maxmemory-policy noeviction, and in redis.conf: an evicted key is a lost job"
        mark = Mark.WRONG if limit else Mark.NOTE
        found.append(Finding("eviction", mark, f"{policy}{'' if limit else ', but there is no maxmemory'}", fix))
    if limit and used > FULL * limit:
        fix = "raise maxmemory, or move other data elsewhere: a full Redis refuses jobs"
        found.append(Finding("memory", Mark.WRONG, f"{used / limit:.0%} of maxmemory is used", fix))
    return found


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _check_persistence(client: redis.Redis) -> list[Finding]:
    state = _info(client, "persistence")
    found = []
    if _number(state.get("aof_enabled")):
        found.append(Finding("persistence", Mark.OK, "append-only file"))
    else:
        fix = "CONFIG SET appendonly yes, and in redis.conf: jobs are lost with a restart"
        saves = _saves(client)
        if saves:
            found.append(Finding("persistence", Mark.NOTE, f"snapshots only ({saves}): the last jobs may be lost", fix))
        elif saves is None:
            found.append(Finding("persistence", Mark.NOTE, "no append-only file; snapshots cannot be checked", fix))
        else:
            found.append(Finding("persistence", Mark.WRONG, "neither append-only file nor snapshots", fix))
    for name, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if state.get(name, "ok") != "ok":
            fix = "look at Redis's log and at the space on its disk: it may refuse writes"
            found.append(Finding("persistence", Mark.WRONG, f"the last write of the {what} failed", fix))
    return found


def _saves(client: redis.Redis) -> str | None:
    """Return the rule of the snapshots, empty without one; None where CONFIG is not allowed."""
    try:
        config = cast("Mapping[str, str]", client.config_get("save"))
    except redis.ResponseError:
        return None
    return str(config.get("save", "")) or ""


def _check_clock(client: redis.Redis) -> list[Finding]:
    began_s = time.time()
    seconds, micros = client.time()
    ended_s = time.time()
    theirs_s = seconds + micros / 1e6
    off_s = 0.0 if began_s <= theirs_s <= ended_s else min(abs(theirs_s - began_s), abs(theirs_s - ended_s))
    if off_s <= CLOCK_OFF_S:
        return [Finding("clock", Mark.OK, f"differs from Redis's by {duration(off_s)}")]
    fix = "turn on NTP on both machines; schedules follow Redis's clock, logs and signed URLs this one"
    return [Finding("clock", Mark.NOTE, f"differs from Redis's by {duration(off_s)}", fix)]


def _check_scan(client: redis.Redis) -> list[Finding]:
    """Look whether workers may look for jobs that others lost."""
    try:
        client.scan(count=1)
    except redis_errors.NoPermissionError:
        fix = "grant the workers' user SCAN; you need not if no program but videopoll writes records"
        return [Finding("lost jobs", Mark.NOTE, "are not looked for: this user may not SCAN", fix)]
    return [Finding("lost jobs", Mark.OK, "may be looked for")]


def _check_types(client: redis.Redis, keys: Keys) -> list[Finding]:
    """Return which fixed keys of a partition have another type than the schema says."""
    wanted = _fixed_keys(keys)
    with client.pipeline(transaction=False) as batch:
        for key in wanted:
            batch.type(key)
        types = [one.decode() for one in cast("list[bytes]", batch.execute())]
    found = []
    for (key, kind), word in zip(wanted.items(), types, strict=True):
        is_kind = {"zset": "sorted set"}.get(word, word)
        if is_kind not in {kind, "none"}:
            fix = f"another program uses this name: choose another --prefix, or look at {key} and delete it"
            found.append(Finding("keys", Mark.WRONG, f"{key} is a {is_kind}, not a {kind}", fix))
    return found


def _fixed_keys(keys: Keys) -> dict[str, str]:
    """Return the keys whose names have nothing but the prefix in them, each with its type."""
    return {
        record.pattern.replace("{prefix}", keys.prefix): record.type for record in KEYS if "{" not in record.pattern[8:]
    }


def _check_queue(figures: Figures) -> list[Finding]:
    if figures.counts is None:
        return [Finding("queue", Mark.WRONG, figures.detail, "look at the findings above")]
    findings = []
    for problem in figures.troubles:
        found, _, fix = problem.partition(": ")
        findings.append(Finding("workers", Mark.WRONG, found, fix or None))
    if not figures.troubles:
        alive = len(figures.alive)
        if alive:
            findings.append(Finding("workers", Mark.OK, f"{alive} alive"))
        else:
            fix = (
                "start one with videopoll worker; one with --no-history or visible=False works, but cannot be seen here"
            )
            findings.append(Finding("workers", Mark.NOTE, "none is known to be alive", fix))
    if figures.held:
        found = f"held back after a 429: {', '.join(held_lines(figures.held, figures.counts.now_ms))}"
        fix = "it ends by itself; if it comes again and again, give the workers an --account-concurrency, or poll less often"
        findings.append(Finding("video API", Mark.NOTE, found, fix))
    dead = figures.counts.dead
    if dead:
        findings.append(Finding("dead letters", Mark.NOTE, f"{dead:,}", "look at them with videopoll dead list"))
    return findings


# --- the outside world ---


def apis_in_use(redis_url: str, prefix: str, partitions: int | None = None) -> list[tuple[str | None, str]]:
    """Return which video APIs living workers poll; none if that cannot be told."""
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
        return read_figures(queue).video_apis


def check_apis(api_url: str | None, given: list[ApiDescription], in_use: list[tuple[str | None, str]]) -> list[Finding]:
    """Check the video APIs that are in use here, and no other.

    Args:
        api_url: Where the API without a description is, if an operator says it.
        given: The described ones that the operator names.
        in_use: Those that living workers poll.
    """
    plain = [url for name, url in in_use if name is None]
    named = {name: url for name, url in in_use if name is not None}
    described_ones = {api.name: api for api in (*ALL.values(), *given)}
    urls = named | {api.name: named.get(api.name) or url_of(api) or "" for api in given}
    found: list[Finding] = []
    if api_url or plain or secret(API_KEY):
        found = check_api(api_url or (plain or [DEFAULT_API_URL])[0], secret(API_KEY))
    for name, url in urls.items():
        found += check_described(name, url, described_ones.get(name))
    if not found:
        fix = f"name one with --api-url or --provider, or set {API_KEY}; a poller of your own cannot be asked from here"
        return [Finding("video API", Mark.NOTE, "not asked: no living worker says that it polls one", fix)]
    return found


def check_described(name: str, url: str, api: ApiDescription | None) -> list[Finding]:
    """Ask a described video API whether it answers, and about a job that cannot exist, to try the key."""
    check = f"video API {shown(name)}"
    if not url:
        variable = f"VIDEOPOLL_{variable_part(name)}_URL"
        return [Finding(check, Mark.WRONG, "its address is not known", f"set {variable} to it")]
    health = health_of(url, HTTP_TIMEOUT_S)
    where = "check its address and the network; if they are right, wait: polls back off"
    found = [Finding(check, Mark.OK if health.up else Mark.WRONG, health.detail, None if health.up else where)]
    key = None if api is None else secret(api.key_variable)
    if api is None or not api.auth_header:
        return found
    name = f"key of {api.name}"
    if key is None:
        fix = f"set {api.key_variable} to the key that your workers have"
        return [*found, Finding(name, Mark.NOTE, f"{api.key_variable} is not set here, not tried", fix)]
    try:
        poller = HttpVideoPoller(api, api_key=key, base_url=url)
    except ConfigurationError as error:
        return [*found, Finding(name, Mark.WRONG, f"cannot be tried: {error}", f"look at {api.key_variable}")]
    try:
        observation = poller.poll(made_up_job(api, url), timeout_s=HTTP_TIMEOUT_S)
    finally:
        poller.close()
    if isinstance(observation, Fault) and observation.kind in {FaultKind.CREDENTIALS, FaultKind.BLOCKED}:
        fix = f"the key is wrong, was withdrawn, or has no credit: set {api.key_variable} anew and restart the workers"
        return [*found, Finding(name, Mark.WRONG, observation.detail, fix)]
    return [*found, Finding(name, Mark.OK, "not refused")]


def check_api(api_url: str, api_key: str | None) -> list[Finding]:
    """Ask the video API after its health, and about a job that cannot exist, to try the key."""
    poller = VideoApiPoller(base_url=api_url, api_key=api_key or "none")
    try:
        health = poller.health(timeout_s=HTTP_TIMEOUT_S)
        where = "check the URL (--api-url, VIDEOPOLL_API_URL) and the network; if they are right, wait: polls back off"
        found = [
            Finding("video API", Mark.OK if health.up else Mark.WRONG, health.detail, None if health.up else where)
        ]
        if api_key is None:
            fix = f"set {API_KEY} to the key that your workers have"
            return [*found, Finding("API key", Mark.WRONG, f"{API_KEY} is not set", fix)]
        made_up = VideoJob(f"videopoll-doctor-{secrets.token_hex(6)}", "-", 0)
        observation = poller.poll(made_up, timeout_s=HTTP_TIMEOUT_S)
    finally:
        poller.close()
    if isinstance(observation, Fault):
        if observation.kind is FaultKind.CREDENTIALS:
            fix = f"the key is wrong or was withdrawn: set {API_KEY} anew and restart the workers"
            return [*found, Finding("API key", Mark.WRONG, observation.detail, fix)]
        if observation.kind is FaultKind.BLOCKED:
            fix = (
                "have the firewall or the proxy in front of the video API let this machine through; leave the key alone"
            )
            return [*found, Finding("API key", Mark.WRONG, f"not tried, {observation.detail}", fix)]
        fix = "the key could not be tried: look again when the video API is well"
        return [*found, Finding("API key", Mark.WRONG, f"not tried, {observation.detail}", fix)]
    return [*found, Finding("API key", Mark.OK, "accepted")]


def check_ultramsg(base_url: str, instance_id: str | None, token: str | None) -> Finding:
    """Ask UltraMsg whether the sending instance is connected to a phone."""
    if not instance_id or not token:
        return _not_configured("UltraMsg", {"--ultramsg-instance": instance_id, ULTRAMSG_TOKEN: token})
    url = f"{base_url.rstrip('/')}/{quote(instance_id, safe='')}/instance/status?token={quote(token, safe='')}"
    http = Http(max_connections=1)
    try:
        reply = http.send(HttpRequest(method="GET", url=url, timeout_s=HTTP_TIMEOUT_S))
    finally:
        http.close()
    if isinstance(reply, HttpFailure):
        fix = "check the URL (--ultramsg-url) and the network; sends are tried again meanwhile"
        return Finding("UltraMsg", Mark.WRONG, f"no answer: {reply.detail}", fix)
    body = reply.json()
    status = _dig(body, "status", "accountStatus", "status")
    if status == GOOD_INSTANCE:
        return Finding("UltraMsg", Mark.OK, f"{shown(instance_id)} is {GOOD_INSTANCE}")
    if isinstance(status, str):
        fix = "open the instance on UltraMsg's site, and scan its QR code with the phone if it asks for it"
        return Finding("UltraMsg", Mark.WRONG, f"{shown(instance_id)} is {redact(status)}", fix)
    error = _dig(body, "error")
    said = redact(str(error), token) if error else f"HTTP {reply.status}"
    fix = f"check --ultramsg-instance and {ULTRAMSG_TOKEN}: they belong together"
    return Finding("UltraMsg", Mark.WRONG, f"{shown(instance_id)}: {said}", fix)


def check_whatsapp_factory(base_url: str | None, instance_id: str | None, token: str | None) -> Finding:
    """Try the instance and the key with an empty text to nobody, which WhatsApp Factory refuses: it has no status call."""
    name = "WhatsApp Factory"
    if not base_url or not instance_id or not token:
        wanted = {
            "--whatsapp-factory-url": base_url,
            "--whatsapp-factory-instance": instance_id,
            WHATSAPP_FACTORY_TOKEN: token,
        }
        return _not_configured(name, wanted)
    url = text_url(check_url(base_url, "--whatsapp-factory-url").rstrip("/"), quote(instance_id, safe=""))
    http = Http(max_connections=1)
    try:
        reply = http.send(
            HttpRequest(method="POST", url=url, headers={"x-api-key": token}, json={}, timeout_s=HTTP_TIMEOUT_S)
        )
    finally:
        http.close()
    where = "check the URL (--whatsapp-factory-url) and the network; sends are tried again meanwhile"
    if isinstance(reply, HttpFailure):
        return Finding(name, Mark.WRONG, f"no answer: {redact(reply.detail, token)}", where)
    said = f"{shown(instance_id)}: HTTP {reply.status}"
    if reply.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return Finding(name, Mark.WRONG, f"{said}, the key is refused", f"set {WHATSAPP_FACTORY_TOKEN} anew")
    if reply.status == HTTPStatus.NOT_FOUND:
        return Finding(name, Mark.WRONG, said, "check --whatsapp-factory-url and --whatsapp-factory-instance")
    if reply.status == HTTPStatus.TOO_MANY_REQUESTS or reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Finding(name, Mark.WRONG, said, "wait until it is well again; sends are tried again meanwhile")
    return Finding(name, Mark.OK, f"{shown(instance_id)} answers, and does not refuse the key")


def check_channels(named: Iterable[str]) -> list[Finding]:
    """Look at the variables of the channels that are named, or have all that they need; their services are not asked."""
    resolving = secret(RESOLVER) is not None
    names = dict.fromkeys([*(each for each in named if "=" not in each), *filter(is_configured, SHIPPED)])
    findings: list[Finding] = []
    for name in names:
        try:
            problem = problem_of(name, resolving=resolving)
        except ConfigurationError as error:
            problem = str(error)
        check = f"channel {shown(name)}"
        if problem is None:
            findings.append(Finding(check, Mark.OK, "its variables have the right form; its service was not asked"))
        else:
            fix = "look at its variables: videopoll channels lists them"
            findings.append(Finding(check, Mark.WRONG, redact(problem), fix))
    return findings


def _not_configured(name: str, wanted: Mapping[str, str | None]) -> Finding:
    missing = [option for option, value in wanted.items() if not value]
    if len(missing) == len(wanted):
        return Finding(name, Mark.NOTE, "not configured here, not checked")
    fix = f"set {' and '.join(missing)}, too: it is left out otherwise"
    return Finding(name, Mark.WRONG, "half configured", fix)


def _dig(value: object, *names: str) -> object:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


# --- printing ---

_STYLES = {Mark.OK: ("✔", "green"), Mark.NOTE: ("•", "yellow"), Mark.WRONG: ("✘", "bold red")}


def _print(findings: list[Finding]) -> None:
    if not sys.stdout.isatty():
        print_rows((), [[one.mark.value, one.check, one.found, one.fix] for one in findings])
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold", ratio=1)
    for one in findings:
        sign, style = _STYLES[one.mark]
        said = Text(one.found)
        if one.fix:
            said.append(f"\n→ {one.fix}", style=style)
        table.add_row(Text(sign, style=style), Text(one.check), said)
    Console().print(table)
