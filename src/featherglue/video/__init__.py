"""Matching of consecutive frames: cameras, videos, streams and folders of images.

```python
from featherglue.video import match_frames, open_source

with open_source("walk.mp4") as source:
    for item in match_frames(featherglue.load("fast"), source):
        print(item.frame.number, len(item.matches), item.milliseconds["total"])
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Public name → module, which is imported on first use.
_PUBLIC = {
    "Frame": "frames",
    "FrameMatcher": "frame_matching",
    "FrameMatches": "frame_matching",
    "FrameSource": "frames",
    "LiveSource": "live",
    "SourceError": "frames",
    "TrackWriter": "track_writer",
    "Tracker": "tracking",
    "Tracks": "tracking",
    "match_frames": "frame_matching",
    "open_source": "sources",
}
__all__ = [
    "Frame",
    "FrameMatcher",
    "FrameMatches",
    "FrameSource",
    "LiveSource",
    "SourceError",
    "TrackWriter",
    "Tracker",
    "Tracks",
    "match_frames",
    "open_source",
]

if TYPE_CHECKING:
    from featherglue.errors import SourceError as SourceError
    from featherglue.video.frame_matching import FrameMatcher as FrameMatcher
    from featherglue.video.frame_matching import FrameMatches as FrameMatches
    from featherglue.video.frame_matching import match_frames as match_frames
    from featherglue.video.frames import Frame as Frame
    from featherglue.video.frames import FrameSource as FrameSource
    from featherglue.video.live import LiveSource as LiveSource
    from featherglue.video.sources import open_source as open_source
    from featherglue.video.track_writer import TrackWriter as TrackWriter
    from featherglue.video.tracking import Tracker as Tracker
    from featherglue.video.tracking import Tracks as Tracks


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'featherglue.video' has no attribute {name!r}")
    return getattr(import_module(f"featherglue.video.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
