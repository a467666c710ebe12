"""A web page whose visitor orders a video and sees it when it is there. Any number of processes, one Redis.

    pip install videopoll fastapi uvicorn
    export APP_SECRET=$(openssl rand -hex 32)
    uvicorn --app-dir examples/hosts --workers 2 fastapi_app:app

The page hears of its video by server-sent events, from whichever process: the outcome is waited for in Redis.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from videopoll import AsyncRedisVideoJobQueue, AsyncRunner, QueueError, SilentNotifier, VideoApiPoller
from videopoll.video_api import GenerationRequest, GenerationStarted, VideoApiGenerator

api = {"base_url": os.environ["VIDEO_API_URL"], "api_key": os.environ["VIDEO_API_KEY"]}
queue = AsyncRedisVideoJobQueue.from_url(os.environ["REDIS_URL"], prefix=os.environ.get("PREFIX", "web"))
generator = VideoApiGenerator(**api)
# The page itself is the channel: nothing has to be sent anywhere.
runner = AsyncRunner(queue, VideoApiPoller(**api), SilentNotifier())

PAGE = """<!doctype html><title>A video</title>
<form><input name="prompt" placeholder="What do you want to see?"><button>Make a video</button></form>
<p></p><video controls hidden></video>
<script>
const [form, line, video] = ["form", "p", "video"].map(name => document.querySelector(name));
form.onsubmit = async event => {
  event.preventDefault();
  line.textContent = "Your video is being made.";
  const body = JSON.stringify({prompt: form.prompt.value}), headers = {"content-type": "application/json"};
  const {events} = await (await fetch("/videos", {method: "POST", body, headers})).json();
  const source = new EventSource(events);  // reconnects by itself
  source.addEventListener("outcome", event => {
    source.close();
    const outcome = JSON.parse(event.data);
    line.textContent = outcome.video ? "Here it is:" : "There is no video this time.";
    if (outcome.video) { video.src = outcome.video; video.hidden = false; }
  });
};
</script>"""


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with queue, runner:
        runner.start()
        yield
    await generator.aclose()


app = FastAPI(lifespan=lifespan)


def ticket_of(job_id: str) -> str:
    """Return what only the visitor who ordered this video has: ids of jobs can be guessed."""
    return hmac.new(os.environ["APP_SECRET"].encode(), job_id.encode(), hashlib.sha256).hexdigest()


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


@app.post("/videos", status_code=202)
async def order(body: dict[str, str]) -> dict[str, str]:
    started = await generator.agenerate(GenerationRequest(prompt=body["prompt"]))
    if not isinstance(started, GenerationStarted):
        raise HTTPException(502, "the video could not be started")
    try:
        await queue.enqueue(started.job_id, conversation_id="web", metadata=started.metadata)
    except QueueError as error:
        raise HTTPException(503, "the video is being made, and cannot be followed") from error
    return {"events": f"/videos/{started.job_id}/events?ticket={ticket_of(started.job_id)}"}


@app.get("/videos/{job_id}/events")
async def events(job_id: str, ticket: str, request: Request) -> StreamingResponse:
    if not hmac.compare_digest(ticket.encode(), ticket_of(job_id).encode()):
        raise HTTPException(404, "there is no such video")
    return StreamingResponse(stream(job_id, request), media_type="text/event-stream")


async def stream(job_id: str, request: Request) -> AsyncIterator[str]:
    while not await request.is_disconnected():
        outcome = await queue.wait(job_id, timeout_s=15)
        if outcome is not None:
            told = {"outcome": outcome.kind.value, "video": outcome.video_url}
            yield f"event: outcome\ndata: {json.dumps(told)}\n\n"
            return
        yield ": still working\n\n"  # keeps proxies from closing the connection
