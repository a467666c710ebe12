"""``python manage.py video_worker``: polls and delivers until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os

from django.core.management.base import BaseCommand, CommandParser

from videopoll import RoutingNotifier, Runner, UltraMsgNotifier, VideoApiPoller
from videos.queue import video_queue


class Command(BaseCommand):
    help = "Polls the video API and delivers finished videos."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--concurrency", type=int, default=16, help="Polls at a time.")

    def handle(self, *args: object, **options: int) -> None:
        poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
        ultramsg = UltraMsgNotifier(
            base_url=os.environ["ULTRAMSG_URL"],
            instance_id=os.environ["ULTRAMSG_INSTANCE"],
            token=os.environ["ULTRAMSG_TOKEN"],
        )
        notifier = RoutingNotifier.from_metadata({"ultramsg": ultramsg})
        with video_queue() as queue, Runner(queue, poller, notifier, concurrency=options["concurrency"]) as runner:
            runner.run(handle_signals=True)
