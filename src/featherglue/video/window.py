"""The window of `featherglue video` and its keys."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import cv2
import numpy as np

from featherglue.drawing import RGB
from featherglue.errors import UsageError
from featherglue.video.frame_matching import FrameMatcher

_KEYPOINT_FACTOR, _MATCH_STEP = 0.1, 0.05  # by which a key changes the thresholds
_MIN_KEYPOINT_THRESHOLD, _MATCH_RANGE = 1e-4, (0.05, 0.95)
_ESCAPE = 27


def why_no_window() -> str:
    """The reason why no window can be opened, or ""."""
    framework = getattr(cv2, "currentUIFramework", lambda: "unknown")()
    if not hasattr(cv2, "imshow") or not framework:
        return (
            "this OpenCV is built without windows: pip uninstall opencv-python-headless, "
            "then pip install opencv-python"
        )
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in screens):
        return "there is no display (DISPLAY is not set)"
    return ""


class Window:
    """A window that shows pictures and reads keys.

    Args:
        title: title of the window.

    Raises:
        UsageError: no window can be opened.
    """

    def __init__(self, title: str) -> None:
        reason = why_no_window()
        if reason:
            raise UsageError(f"no window: {reason}")
        self._title, self._open = title, False

    def show(self, picture: RGB) -> str:
        """Show a picture (H, W, 3) RGB uint8.

        Returns:
            The pressed key or ""; "q" for Escape and after the user closed the window.
        """
        try:
            if self._open and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
                return "q"
            cv2.imshow(self._title, np.ascontiguousarray(picture[:, :, ::-1]))
            self._open = True
            key = cv2.waitKey(1)
        except cv2.error:  # the display was lost
            return "q"
        if key < 0:
            return ""
        return "q" if key & 0xFF == _ESCAPE else chr(key & 0xFF)

    def close(self) -> None:
        """Close the window, if it is open."""
        if self._open:
            self._open = False
            try:
                cv2.destroyWindow(self._title)
            except cv2.error:  # the user closed it
                return


@dataclass
class Controls:
    """The keys of SuperGlue's demo.

    Attributes:
        matcher: the keys change its thresholds and anchor.
        keypoints: whether keypoints without a match are drawn.
        quit: whether the user asked to quit.
    """

    matcher: FrameMatcher
    keypoints: bool = False
    quit: bool = False

    def press(self, key: str) -> str:
        """Handle a key. Returns a message about what it did; "" for a key without a meaning."""
        if key == "q":
            self.quit = True
            return "quit"
        if key == "k":
            self.keypoints = not self.keypoints
            return f"keypoints {'shown' if self.keypoints else 'hidden'}"
        if key == "n":
            try:
                self.matcher.anchor()
            except UsageError as error:
                return str(error)
            return "new anchor"
        if key and key in "er":
            return self._keypoint_threshold(-1 if key == "e" else 1)
        if key and key in "df":
            return self._match_threshold(-1 if key == "d" else 1)
        return ""

    def _keypoint_threshold(self, sign: int) -> str:
        session = self.matcher.session
        now, factor = session.processing, 1 + sign * _KEYPOINT_FACTOR
        threshold = float(np.clip(now.keypoint_threshold * factor, _MIN_KEYPOINT_THRESHOLD, 1))
        self.matcher.session = session.with_settings(
            keypoint_threshold=threshold,
            high_keypoint_threshold=min(now.high_keypoint_threshold * factor, 1),
        )
        return f"keypoint threshold {threshold:.4g}"

    def _match_threshold(self, sign: int) -> str:
        session = self.matcher.session
        threshold = session.processing.match_threshold + sign * _MATCH_STEP
        threshold = float(np.clip(round(threshold, 4), *_MATCH_RANGE))
        self.matcher.session = session.with_settings(match_threshold=threshold)
        return f"match threshold {threshold:.2f}"
