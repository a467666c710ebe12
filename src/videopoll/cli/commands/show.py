"""``videopoll show``: where one job is, what comes next, and how it ended."""

from __future__ import annotations

from typing import Annotated

import typer

from videopoll.cli.describe import counted, describe_job
from videopoll.cli.options import (
    API_KEY,
    DEFAULT_API_URL,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    ApiUrl,
    AsJson,
    JobId,
    Partitions,
    Prefix,
    RedisUrl,
    open_queue,
    secret,
)
from videopoll.cli.output import Cell, age, complain, guarded, masked_url, print_json, print_values, when
from videopoll.cli.providers import open_poller
from videopoll.errors import ConfigurationError
from videopoll.jobs.codec import JsonValue
from videopoll.jobs.job import JobState, VideoJob
from videopoll.jobs.views import JobView
from videopoll.observations import Fault, NotAsked, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.observe.log import shown
from videopoll.video_api.apis import ALL
from videopoll.video_api.http_poller import HttpVideoPoller
from videopoll.video_api.poller import VideoApiPoller

__all__ = ["live_answer", "show"]

LIVE_TIMEOUT_S = 15.0


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
    partitions: Partitions = None,
    api_url: ApiUrl = DEFAULT_API_URL,
) -> None:
    """Show where a job is, what comes next, and how it ended. Changes nothing.

    \b
    videopoll show job_17
    videopoll show job_17 --live
    videopoll show job_17 --json | jq .state
    """  # noqa: D301 - a backspace keeps line ends in the help
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
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
    values = describe_job(view, reveal=reveal)
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
    """Ask the video API about a job, and return its answer in words; nothing in Redis changes.

    Raises:
        ConfigurationError: There is no key to ask with.
    """
    job = view.job if view is not None and view.job is not None else VideoJob(job_id, "-", 0)
    poller = _poller_of(job, api_url)
    try:
        observation = poller.poll(job, timeout_s=LIVE_TIMEOUT_S)
    finally:
        poller.close()
    match observation:
        case VideoWorking(word, error=str()):
            return f"{shown(word)}, but without a video that can be delivered"
        case VideoWorking(word, known):
            return shown(word) if known else f"{shown(word)} (a word that we do not know)"
        case VideoReady(str(url)):
            return f"completed, {masked_url(url)}"
        case VideoReady():
            return "completed, but without a video that can be delivered"
        case VideoFailed(error):
            return f"failed ({shown(error)})"
        case VideoMissing():
            return "it does not know the job"
        case Fault():
            return f"no answer ({shown(observation.detail)})"
        case NotAsked():
            return "not asked"


def _poller_of(job: VideoJob, api_url: str) -> VideoApiPoller | HttpVideoPoller:
    """Return what asks the API that a job names, or the one at this address."""
    provider = job.metadata.get("provider")
    if isinstance(provider, str) and provider in ALL:
        return open_poller(ALL[provider])
    api_key = secret(API_KEY)
    if api_key is None:
        msg = f"--live asks the video API, which needs a key: set {API_KEY} in the environment"
        raise ConfigurationError(msg)
    return VideoApiPoller(base_url=api_url, api_key=api_key)


def _as_cell(value: JsonValue) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return counted(value) or None
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items()) or None
    return value
