"""Pictures of a frame: its matches or its tracks, with rates and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from featherglue.drawing import RGB, confidence_colors, draw_matches
from featherglue.io.image import resize_gray
from featherglue.video.frame_matching import STAGES, FrameMatches
from featherglue.video.tracking import Tracks

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_KEYPOINT = (170, 170, 170)
_RED_LENGTH = 40  # frames; a track of this length is red, a new one is blue
_SHOWN = (*STAGES, "show")


def draw_frame(
    item: FrameMatches,
    tracks: Tracks | None = None,
    *,
    keypoints: bool = False,
    min_track_length: int = 3,
    max_side: int = 1600,
    above: Sequence[str] = (),
    below: Sequence[str] = (),
) -> RGB:
    """Draw the matches of a frame beside its counterpart, or its tracks as trails.

    Args:
        item: the frame.
        tracks: draw these tracks on the frame instead of matches.
        keypoints: draw keypoints without a match or track too.
        min_track_length: minimum length in frames of the tracks that are drawn.
        max_side: maximum width of the picture in pixels.
        above: lines of text in the upper left corner.
        below: lines of text in the lower left corner.

    Returns:
        (H, W, 3) RGB uint8.
    """
    if tracks is None:
        picture = draw_matches(item.result, max_width=max_side, show_keypoints=keypoints)
    else:
        picture = _draw_tracks(item, tracks, keypoints, min_track_length, max_side)
    write_lines(picture, above, at_bottom=False)
    write_lines(picture, below, at_bottom=True)
    return picture


def captions(
    item: FrameMatches, recent: Mapping[str, float], rate: float, tracks: Tracks | None = None
) -> list[str]:
    """Lines of text: rate and times, counts, and why there are no matches.

    Args:
        item: the frame.
        recent: median milliseconds by stage; "show" is the time of drawing, writing and the window,
            which is not part of the total.
        rate: frames per second, everything included; 0 if it is unknown.
        tracks: tracks through the frame; None without tracking.
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
        lines.append("no keypoints: the frame is blank or blurred")
    elif not item.matched:
        lines.append("no matches: this is the first frame")
    elif len(before) == 0:
        lines.append("no matches: the other frame has no keypoints")
    elif len(matches) == 0:
        lines.append("no matches")
    return lines


def _draw_tracks(
    item: FrameMatches, tracks: Tracks, keypoints: bool, min_track_length: int, max_side: int
) -> RGB:
    image = item.frame.image
    scale = min(1.0, max_side / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = np.ascontiguousarray(np.repeat(resize_gray(image, size)[..., None], 3, 2))
    long = tracks.lengths >= min_track_length
    if keypoints:
        for x, y in tracks.positions[~long] * scale:
            cv2.circle(canvas, (round(x * 16), round(y * 16)), 24, _KEYPOINT, 1, cv2.LINE_AA, 4)
    colors = confidence_colors((tracks.lengths / _RED_LENGTH).astype(np.float32))
    for i in np.flatnonzero(long):
        color = tuple(int(channel) for channel in colors[i])
        trail = tracks.trails[i][: tracks.lengths[i]]
        points = np.rint(trail * (scale * 16)).astype(np.int32)
        cv2.polylines(canvas, [points], False, color, 1, cv2.LINE_AA, 4)
        head = (int(points[0, 0]), int(points[0, 1]))
        cv2.circle(canvas, head, 36, color, -1, cv2.LINE_AA, 4)
    return canvas


def write_lines(canvas: RGB, lines: Sequence[str], *, at_bottom: bool) -> None:
    """Write text into a corner of a picture, white on a darkened background.

    The text shrinks if the picture is too narrow.

    Args:
        canvas: (H, W, 3) RGB uint8, changed in place.
        lines: ASCII text.
        at_bottom: write into the lower instead of the upper left corner.
    """
    if not lines:
        return
    height, width = canvas.shape[:2]
    size = float(np.clip(height / 900, 0.45, 1.5))
    widest = max(cv2.getTextSize(line, _FONT, size, 1)[0][0] for line in lines)
    size *= min(1.0, max(8, width - 16) / max(1, widest))
    widest = max(cv2.getTextSize(line, _FONT, size, 1)[0][0] for line in lines)
    step = round(34 * size) + 2
    text_height = len(lines) * step + round(10 * size)
    top = max(0, height - text_height) if at_bottom else 0
    background = canvas[top : top + text_height, : widest + 16]
    background[:] = background // 4
    for i, line in enumerate(lines):
        at = (8, top + (i + 1) * step - round(4 * size))
        cv2.putText(canvas, line, at, _FONT, size, (255, 255, 255), 1, cv2.LINE_AA)
