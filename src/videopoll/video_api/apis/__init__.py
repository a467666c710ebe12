"""Descriptions of public video APIs, a module each.

Nothing was called live: each says where its facts were read, when, and how sure they are.
"""

from __future__ import annotations

from videopoll.video_api.apis.dashscope import DASHSCOPE
from videopoll.video_api.apis.fal import FAL
from videopoll.video_api.apis.heygen import HEYGEN
from videopoll.video_api.apis.kling import KLING
from videopoll.video_api.apis.luma import LUMA
from videopoll.video_api.apis.minimax import MINIMAX
from videopoll.video_api.apis.modelark import MODELARK
from videopoll.video_api.apis.openrouter import OPENROUTER
from videopoll.video_api.apis.replicate import REPLICATE
from videopoll.video_api.apis.runway import RUNWAY
from videopoll.video_api.apis.videos import VIDEOS
from videopoll.video_api.apis.xai import XAI

__all__ = [
    "ALL",
    "DASHSCOPE",
    "FAL",
    "HEYGEN",
    "KLING",
    "LUMA",
    "MINIMAX",
    "MODELARK",
    "OPENROUTER",
    "REPLICATE",
    "RUNWAY",
    "VIDEOS",
    "XAI",
]

ALL = {
    one.name: one
    for one in (
        VIDEOS,
        OPENROUTER,
        FAL,
        REPLICATE,
        MODELARK,
        XAI,
        DASHSCOPE,
        MINIMAX,
        KLING,
        RUNWAY,
        LUMA,
        HEYGEN,
    )
}
"""All of them by name."""
