"""Opening cameras and addresses with OpenCV."""

from __future__ import annotations

import re
import threading
from typing import Any

import cv2
import pytest

from featherglue.video import SourceError, open_source
from featherglue.video.capture import call_with_timeout, open_camera, quiet_opencv


def test_a_missing_camera(capfd: pytest.CaptureFixture[str]) -> None:
    for source in (99, "99"):
        with pytest.raises(
            SourceError, match="camera 99: cannot be opened; check that it is connected"
        ):
            open_source(source)
    assert capfd.readouterr() == ("", "")


class Webcam:
    """A camera that delivers 640×480 at 30 frames per second, whatever is requested."""

    def __init__(self, _: object) -> None:
        self.released = False
        self.given = {
            cv2.CAP_PROP_FRAME_WIDTH: 640.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 480.0,
            cv2.CAP_PROP_FPS: 29.97,
        }

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, *_: Any) -> bool:
        return False

    def get(self, what: int) -> float:
        return self.given[what]

    def release(self) -> None:
        self.released = True


def test_camera_without_the_requested_size(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Webcam] = []

    def capture(device: object) -> Webcam:
        made.append(Webcam(device))
        return made[-1]

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    open_camera(0, "camera 0", (640, 480), 30)
    open_camera(0, "camera 0", None, None)
    assert not any(camera.released for camera in made)
    for size, rate, message in (
        ((1280, 720), None, "`camera_size=(1280, 720)`; it offers 640×480"),
        (None, 60, "`rate=60`; it offers 29.97"),
    ):
        with pytest.raises(SourceError, match=re.escape(f"camera 0: does not offer {message}")):
            open_camera(0, "camera 0", size, rate)
        assert made[-1].released


def test_the_log_level_is_restored_after_overlapping_threads() -> None:
    logging = cv2.utils.logging
    before, inside, leave = logging.getLogLevel(), threading.Event(), threading.Event()

    def other() -> None:
        with quiet_opencv():
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=other)
    with quiet_opencv():
        thread.start()
        assert inside.wait(5)
    assert logging.getLogLevel() == logging.LOG_LEVEL_SILENT  # the other thread is inside
    leave.set()
    thread.join(timeout=60)
    assert logging.getLogLevel() == before


def test_a_late_result_is_discarded() -> None:
    go, discarded = threading.Event(), threading.Event()
    with pytest.raises(SourceError, match="slow: no answer"):
        call_with_timeout(0.05, "slow", go.wait, lambda _: discarded.set())
    go.set()
    assert discarded.wait(2)
    assert call_with_timeout(5, "quick", lambda: 3, lambda _: None) == 3
    with pytest.raises(KeyError):
        call_with_timeout(5, "bad", lambda: {}["x"], lambda _: None)
