"""A publisher that serves a folder of this machine, for tests and the demo."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import secrets
import shutil
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_seconds, kind_name
from videopoll.jobs.video import PublicLink
from videopoll.testing.servers import FakeServer, ReceivedRequest, Reply

if TYPE_CHECKING:
    from videopoll.jobs.video import VideoFile

__all__ = ["FolderPublisher"]


class FolderPublisher(FakeServer):
    """Puts videos into a folder, and serves them on 127.0.0.1. For both runners.

    ::

        with FolderPublisher(tmp_path) as publisher:
            runner = Runner(queue, poller, notifier, publisher=publisher)

    Nobody but this machine can open its links: for users, publish to a bucket.

    Args:
        folder: Where the videos go.
        lives_s: How long a link works, as far as it says.
        port: The port on 127.0.0.1; None chooses a free one.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, lives_s: float | None = 3600.0, port: int | None = None
    ) -> None:
        super().__init__(port=port)
        if not isinstance(folder, str | os.PathLike):
            msg = f"FolderPublisher.folder must be a path, got {kind_name(folder)}"
            raise ConfigurationError(msg)
        if lives_s is not None:
            check_seconds("FolderPublisher.lives_s", lives_s)
        self.folder: Path = Path(folder)
        self._lives_s = lives_s
        # A name can be guessed by who knows the job: the rest of the link cannot.
        self._secret = secrets.token_urlsafe(16)
        self._published: list[str] = []

    @property
    def published(self) -> tuple[str, ...]:
        """The names of the videos that were published, in order; one that was published again is there twice."""
        return tuple(self._published)

    def publish(self, video: VideoFile, *, timeout_s: float) -> PublicLink:
        """Copy the video into the folder, and return the link to it."""
        del timeout_s
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{video.name}.part").open("wb") as file:
            shutil.copyfileobj(video.file, file)
        (self.folder / f"{video.name}.part").replace(self.folder / video.name)
        self._published.append(video.name)
        return PublicLink(f"{self.url}/{self._secret}/{video.name}", lives_s=self._lives_s)

    async def apublish(self, video: VideoFile, *, timeout_s: float) -> PublicLink:
        """Copy the video into the folder, and return the link to it."""
        return await asyncio.to_thread(self.publish, video, timeout_s=timeout_s)

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        secret, _, name = request.path.removeprefix("/").partition("/")
        path = self.folder / Path(name).name
        if (
            not secrets.compare_digest(secret.encode(), self._secret.encode())
            or name != path.name
            or not path.is_file()
        ):
            return super()._handle(request)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Reply(status=HTTPStatus.OK, body=path.read_bytes(), headers={"Content-Type": kind})
