"""What is shown of a frame: its matches or its tracks, with rates and times. RGB uint8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from featherglue.drawing import RGB, confidence_colors, draw_matches
from featherglue.io.image import resize_grey
from featherglue.video.frame_matching import STAGES, FrameMatches
from featherglue.video.tracking import Tracks

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_KEYPOINT = (170, 170, 170)
_OLD = 40  # frames; a track as old as this is shown in red, a new one in blue
_SHOWN = (*STAGES, "show")


def draw_frame(
    item: FrameMatches,
    tracks: Tracks | None = None,
    *,
    keypoints: bool = False,
    min_length: int = 3,
    max_side: int = 1600,
    above: Sequence[str] = (),
    below: Sequence[str] = (),
) -> RGB:
    """The matches of a frame side by side with what it was matched with, or its tracks as trails.

    Args:
        tracks: draw these on the frame instead of matches.
        keypoints: show those without a match or track too.
        min_length: shortest track that is shown.
        max_side: largest width of the picture.
        above, below: lines of text in the upper and lower left corner.

    Returns:
        (H, W, 3) RGB.
    """
    if tracks is None:
        picture = draw_matches(item.result, max_side=max_side, keypoints=keypoints)
    else:
        picture = _draw_tracks(item, tracks, keypoints, min_length, max_side)
    write_lines(picture, above, at_bottom=False)
    write_lines(picture, below, at_bottom=True)
    return picture


def captions(
    item: FrameMatches, recent: Mapping[str, float], rate: float, tracks: Tracks | None = None
) -> list[str]:
    """Rate and stage times (medians, ms), counts, and what is wrong if anything.

    Args:
        recent: milliseconds by stage; "show" is what drawing, writing and the window take beside
            the total.
        rate: frames a second, all included; 0 where it is not known yet.
    """
    stages = "  ".join(f"{name} {recent[name]:.1f}" for name in _SHOWN if name in recent)
    matches, before = item.matches, item.result.features0
    lines = [(f"{rate:.1f} frames/s   " if rate else "") + f"{stages} ms"]
    counts = f"matches {len(matches)} ({int(matches.refined.sum())} refined)"
    if tracks is None:
        counts = f"keypoints {len(before)} : {len(item.features)}   {counts}"
    else:
        counts = f"keypoints {len(item.features)}   {counts}"
    lines.append(counts + (f"   dropped {item.dropped}" if item.dropped else ""))
    if len(item.features) == 0:
        lines.append("no keypoints: a blank or blurred frame")
    elif not item.matched:
        lines.append("nothing to match with yet")
    elif len(before) == 0:
        lines.append("no matches: the other frame has no keypoints")
    elif len(matches) == 0:
        lines.append("no matches")
    return lines


def _draw_tracks(
    item: FrameMatches, tracks: Tracks, keypoints: bool, min_length: int, max_side: int
) -> RGB:
    image = item.frame.image
    scale = min(1.0, max_side / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = np.ascontiguousarray(np.repeat(resize_grey(image, size)[..., None], 3, 2))
    long = tracks.lengths >= min_length
    if keypoints:
        for x, y in tracks.positions[~long] * scale:
            cv2.circle(canvas, (round(x * 16), round(y * 16)), 24, _KEYPOINT, 1, cv2.LINE_AA, 4)
    colors = confidence_colors((tracks.lengths / _OLD).astype(np.float32))
    for i in np.flatnonzero(long):
        color = tuple(int(channel) for channel in colors[i])
        trail = tracks.trails[i][: tracks.lengths[i]]
        points = np.rint(trail * (scale * 16)).astype(np.int32)
        cv2.polylines(canvas, [points], False, color, 1, cv2.LINE_AA, 4)
        head = (int(points[0, 0]), int(points[0, 1]))
        cv2.circle(canvas, head, 36, color, -1, cv2.LINE_AA, 4)
    return canvas


def write_lines(canvas: RGB, lines: Sequence[str], *, at_bottom: bool) -> None:
    """Lines of ASCII in the upper or lower left corner, white on a darkened ground.

    They shrink where the picture is too narrow for them.
    """
    if not lines:
        return
    height, width = canvas.shape[:2]
    size = float(np.clip(height / 900, 0.45, 1.5))
    widest = max(cv2.getTextSize(line, _FONT, size, 1)[0][0] for line in lines)
    size *= min(1.0, max(8, width - 16) / max(1, widest))
    widest = max(cv2.getTextSize(line, _FONT, size, 1)[0][0] for line in lines)
    step = round(34 * size) + 2
    tall = len(lines) * step + round(10 * size)
    top = max(0, height - tall) if at_bottom else 0
    ground = canvas[top : top + tall, : widest + 16]
    ground[:] = ground // 4
    for i, line in enumerate(lines):
        at = (8, top + (i + 1) * step - round(4 * size))
        cv2.putText(canvas, line, at, _FONT, size, (255, 255, 255), 1, cv2.LINE_AA)
