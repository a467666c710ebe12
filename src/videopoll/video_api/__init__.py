"""The video API: its poller and its generator."""

from __future__ import annotations

from videopoll.video_api.poller import VideoApiPoller

__all__ = ["VideoApiPoller"]
