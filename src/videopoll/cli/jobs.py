"""``videopoll enqueue``, ``show`` and ``cancel``: one job, or many from standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, cast

import typer

from videopoll.cli.options import (
    API_KEY,
    DEFAULT_API_URL,
    DEFAULT_JOB_TTL_S,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    ApiUrl,
    AsJson,
    JobId,
    JobTtl,
    Prefix,
    RedisUrl,
    open_queue,
    secret,
)
from videopoll.cli.output import Cell, age, complain, guarded, mask, masked_url, print_json, print_values, when
from videopoll.errors import ConfigurationError, InvalidJobError
from videopoll.jobs.codec import JsonValue, Poison, load_object
from videopoll.jobs.job import JobState, VideoJob, check_id, check_metadata
from videopoll.jobs.views import CancelResult, EnqueueResult, JobView
from videopoll.observations import Fault, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.observe.log import shown
from videopoll.queue.calls import MAX_BATCH
from videopoll.queue.redis_queue import NewJob, RedisVideoJobQueue
from videopoll.video_api.poller import VideoApiPoller

__all__ = ["cancel", "describe", "enqueue", "live_answer", "show"]

LINE_FIELDS = frozenset({"job_id", "conversation_id", "channel", "to", "metadata"})

LIVE_TIMEOUT_S = 15.0

PRIVATE = ("to", "prompt", "reply_to")
"""Metadata that is hidden unless asked for."""

TOO_LATE = {
    CancelResult.SENDING: (
        "too late: its outcome is being sent at this moment, or a worker of another kind has it in hand;"
        " try again in a minute"
    ),
    CancelResult.FINISHED: "too late: it has ended",
    CancelResult.UNKNOWN: "there is no such job",
}


@guarded
def enqueue(
    *,
    job_id: Annotated[
        str | None, typer.Argument(metavar="JOB_ID", help="The video API's id of the job.", show_default=False)
    ] = None,
    conversation: Annotated[
        str | None, typer.Option("--conversation", metavar="ID", help="Whom the video is for, in your words.")
    ] = None,
    channel: Annotated[
        str | None, typer.Option("--channel", help="ultramsg or whatsapp_factory, for workers without a resolver.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="The user's phone number on that channel.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata",
            "-m",
            metavar="KEY=VALUE",
            help="More to store with the job; KEY:=JSON for a number or a list.",
        ),
    ] = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read many jobs from standard input, one JSON object a line.")
    ] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    job_ttl: JobTtl = DEFAULT_JOB_TTL_S,
) -> None:
    """Hand a job to the workers. The same id twice is one job.

    \b
    videopoll enqueue job_17 --conversation c_42 --channel ultramsg --to 5491155550000
    videopoll enqueue job_17 --conversation c_42 -m prompt="a dancing fox" -m version:=2

    With --stdin, a line has job_id and conversation_id, and may have channel, to and
    metadata. Bad lines are told by their number; the good ones are taken in.

    \b
    echo '{"job_id": "job_17", "conversation_id": "c_42", "to": "549…", "channel": "ultramsg"}' |
      videopoll enqueue --stdin
    """  # noqa: D301 - a backspace keeps line ends in the help
    single = (job_id, conversation, channel, to, metadata)
    if stdin and any(single):
        msg = "--stdin brings the jobs with all they have: leave out the job id and its options"
        raise ConfigurationError(msg)
    with open_queue(redis_url, prefix, job_ttl) as queue:
        if stdin:
            if _enqueue_lines(queue, as_json=as_json):
                raise typer.Exit(1)
            return
        if job_id is None or conversation is None:
            msg = "a job needs its id and --conversation: videopoll enqueue JOB_ID --conversation ID, or use --stdin"
            raise ConfigurationError(msg)
        fields = _with_recipient(_parse_metadata(metadata or []), channel, to)
        result = queue.enqueue(job_id, conversation_id=conversation, metadata=fields)
        _print_result(job_id, result, as_json=as_json)


def _enqueue_lines(queue: RedisVideoJobQueue, *, as_json: bool) -> int:
    """Enqueue what standard input brings, in batches; give the number of bad lines."""
    counts: dict[str, int] = {}
    batch: list[NewJob] = []
    bad = 0

    def flush() -> None:
        for (job_id, _, _), result in zip(batch, queue.enqueue_many(batch), strict=True):
            counts[result.value] = counts.get(result.value, 0) + 1
            _print_result(job_id, result, as_json=as_json)
        batch.clear()

    for number, line in _lines():
        try:
            batch.append(_read_line(line))
        except InvalidJobError as error:
            bad += 1
            complain(f"line {number}: {error}")
        if len(batch) >= MAX_BATCH:
            flush()
    flush()
    told = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no jobs"
    complain(told + (f", {bad} bad line{'s' if bad > 1 else ''}" if bad else ""))
    return bad


def _lines() -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        if line.strip():
            yield number, line


def _read_line(line: bytes) -> NewJob:
    fields = load_object(line)
    if isinstance(fields, Poison):
        raise InvalidJobError(fields.reason)
    unknown = sorted(fields.keys() - LINE_FIELDS)
    if unknown:
        msg = f"unknown fields: {', '.join(unknown)}; what is stored with the job goes under metadata"
        raise InvalidJobError(msg)
    channel, to, metadata = fields.get("channel"), fields.get("to"), fields.get("metadata")
    for name, value in (("channel", channel), ("to", to)):
        if value is not None and not isinstance(value, str):
            msg = f"{name} must be a string"
            raise InvalidJobError(msg)
    if metadata is not None and not isinstance(metadata, dict):
        msg = "metadata must be an object"
        raise InvalidJobError(msg)
    fitted = _with_recipient(metadata or {}, cast("str | None", channel), cast("str | None", to))
    return (
        check_id(fields.get("job_id"), "job_id"),
        check_id(fields.get("conversation_id"), "conversation_id"),
        check_metadata(fitted),
    )


def _with_recipient(metadata: dict[str, JsonValue], channel: str | None, to: str | None) -> dict[str, JsonValue]:
    recipient = {name: value for name, value in (("channel", channel), ("to", to)) if value}
    return {**metadata, **recipient}


def _parse_metadata(pairs: list[str]) -> dict[str, JsonValue]:
    metadata: dict[str, JsonValue] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found or not key.rstrip(":"):
            msg = f"--metadata looks like KEY=VALUE, got {pair!r}"
            raise ConfigurationError(msg)
        if not key.endswith(":"):
            metadata[key] = value
            continue
        try:
            metadata[key[:-1]] = json.loads(value)
        except ValueError as error:
            msg = f"--metadata {key[:-1]}:= wants JSON; for a text write {key[:-1]}=…"
            raise ConfigurationError(msg) from error
    return metadata


def _print_result(job_id: str, result: EnqueueResult, *, as_json: bool) -> None:
    if as_json:
        print_json({"job_id": job_id, "result": result.value})
    else:
        typer.echo(f"{job_id}\t{result.value}")


@guarded
def show(
    *,
    job: JobId,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show the address, the prompt and the whole video URL, too.")
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="Ask the video API about it, too.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    api_url: ApiUrl = DEFAULT_API_URL,
) -> None:
    """Tell where a job is, what comes next, and how it ended. Changes nothing.

    \b
    videopoll show job_17
    videopoll show job_17 --live
    videopoll show job_17 --json | jq .state
    """  # noqa: D301 - a backspace keeps line ends in the help
    with open_queue(redis_url, prefix) as queue:
        view = queue.get(job)
        letter = queue.dead_letters.get(job) if view is not None and view.state is JobState.DEAD else None
    told = live_answer(api_url, job, view) if live else None
    if view is None:
        if as_json and live:
            print_json({"job_id": job, "state": None, "live": told})
        elif told is not None:
            typer.echo(f"live: {told}")
        complain(f"there is no job {job!r} under the prefix {prefix!r}: it was never enqueued here, or ended long ago")
        raise typer.Exit(1)
    values = describe(view, reveal=reveal)
    if live:
        values["live"] = told
    if letter is not None:
        values["reason"] = letter.reason
    if as_json:
        print_json(values)
        return
    for name in ("started_ms", "due_ms", "lease_ends_ms", "ended_ms"):
        at_ms = values.pop(name, None)
        if isinstance(at_ms, int):
            values[name.removesuffix("_ms")] = f"{when(at_ms)} ({age(at_ms, view.now_ms)})"
    print_values(
        {name.replace("_", " "): _as_cell(value) for name, value in values.items() if value is not None},
        title=f"Job {job}",
    )


def live_answer(api_url: str, job_id: str, view: JobView | None) -> str:
    """Ask the video API about a job, and say what it says; nothing in Redis changes.

    Raises:
        ConfigurationError: There is no key to ask with.
    """
    api_key = secret(API_KEY)
    if api_key is None:
        msg = f"--live asks the video API, which needs a key: set {API_KEY} in the environment"
        raise ConfigurationError(msg)
    job = view.job if view is not None and view.job is not None else VideoJob(job_id, "-", 0)
    poller = VideoApiPoller(base_url=api_url, api_key=api_key)
    try:
        observation = poller.poll(job, timeout_s=LIVE_TIMEOUT_S)
    finally:
        poller.close()
    match observation:
        case VideoWorking(word, error=str()):
            return f"{shown(word)}, but without a video that can be delivered"
        case VideoWorking(word, known):
            return shown(word) if known else f"{shown(word)} (a word that we do not know)"
        case VideoReady(url):
            return f"completed, {masked_url(url)}"
        case VideoFailed(error):
            return f"failed ({shown(error)})"
        case VideoMissing():
            return "it does not know the job"
        case Fault():
            return f"no answer ({shown(observation.detail)})"


def _as_cell(value: JsonValue) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or None
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items()) or None
    return value


def describe(view: JobView, *, reveal: bool) -> dict[str, JsonValue]:
    """Give all that is known of a job, as JSON; what is private only with `reveal`."""
    job, outcome, entry = view.job, view.outcome, view.entry
    metadata: dict[str, JsonValue] = {}
    for name, value in (job.metadata if job else {}).items():
        hidden = name in PRIVATE and not reveal
        metadata[name] = (mask(str(value)) if name == "to" else "•••") if hidden else value
    url, spoiled = (outcome.video_url, outcome.undeliverable_url) if outcome else (None, None)
    return {
        "job_id": view.job_id,
        "state": view.state.value,
        "conversation": job.conversation_id if job else None,
        "started_ms": job.start_ms if job else None,
        # The counter goes when the polling is over; what is there afterwards is nobody's count.
        "polls": view.attempts if view.outcome is None else None,
        "faults_in_a_row": view.faults,
        "due_ms": view.due_ms,
        "lease_ends_ms": view.lease_ms,
        "worker": view.holder,
        "locked_by_another_kind_of_worker": True if view.foreign_lock else None,
        "outcome": outcome.kind.value if outcome else None,
        "ended_ms": outcome.at_ms if outcome else None,
        "error": outcome.error if outcome else None,
        "video_url": url if url is None or reveal else masked_url(url),
        "undeliverable_url": spoiled if spoiled is None or reveal else masked_url(spoiled),
        "delivered": view.delivered,
        "form": entry.form.value if entry else None,
        "sends": entry.tries if entry else None,
        "send_reasons": list(entry.reasons) if entry else None,
        "metadata": metadata or None,
    }


@guarded
def cancel(
    *,
    job: JobId,
    notify: Annotated[bool, typer.Option("--notify", help="Tell the user.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
) -> None:
    """Stop a job. Its user hears of it only with --notify."""
    with open_queue(redis_url, prefix) as queue:
        result = queue.cancel(job, notify=notify)
    if as_json:
        print_json({"job_id": job, "result": result.value})
    elif result is CancelResult.CANCELLED:
        typer.echo(f"{job}\t{result.value}")
    else:
        complain(f"{job}: {TOO_LATE[result]}")
    if result is not CancelResult.CANCELLED:
        raise typer.Exit(1)
