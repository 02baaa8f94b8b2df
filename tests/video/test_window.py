"""The window and its keys."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.errors import UsageError
from featherglue.session import Session
from featherglue.video import Frame, FrameMatcher, window
from featherglue.video.window import Controls, Window, why_no_window


def test_keys_change_thresholds_anchor_and_display(
    session: Session, moving: list[np.ndarray]
) -> None:
    matcher = FrameMatcher(session)
    controls = Controls(matcher)
    before = session.processing
    assert controls.press("r") == "keypoint threshold 0.0055"
    assert matcher.session.processing.keypoint_threshold == pytest.approx(0.0055)
    assert controls.press("e") == "keypoint threshold 0.00495"
    assert controls.press("f") == "match threshold 0.25"
    assert controls.press("d") == "match threshold 0.20"
    for _ in range(40):
        controls.press("f")
        controls.press("e")
    assert matcher.session.processing.match_threshold == 0.95
    assert matcher.session.processing.keypoint_threshold == 1e-4
    assert session.processing == before
    matcher.session = session.with_settings(keypoint_threshold=0.001, high_keypoint_threshold=0.01)
    controls.press("r")
    assert matcher.session.processing.high_keypoint_threshold == pytest.approx(0.011)
    assert controls.press("k") == "keypoints shown"
    assert controls.keypoints
    assert controls.press("k") == "keypoints hidden"
    assert controls.press("") == controls.press("x") == ""
    for i in range(2):
        matcher.process(Frame(number=i, time=0, image=moving[i]))
    assert controls.press("n") == "new anchor"
    for i in range(2, 4):
        assert matcher.process(Frame(number=i, time=0, image=moving[i])).against == 1
    assert not controls.quit
    assert controls.press("q") == "quit"
    assert controls.quit
    assert "no anchor possible" in Controls(FrameMatcher(session, tracking=True)).press("n")


def test_the_reason_for_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "", raising=False)
    assert "opencv-python" in why_no_window()
    with pytest.raises(UsageError, match="no window: "):
        Window("title")
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT5", raising=False)
    monkeypatch.setattr(window.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "no display" in why_no_window()
    monkeypatch.setenv("DISPLAY", ":0")
    assert why_no_window() == ""


def test_a_window_returns_keys_and_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, keys, visible, closed = [], [ord("k"), -1, 27, ord("x") + 256], [1.0], []
    monkeypatch.setattr(window, "why_no_window", lambda: "")
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _: keys.pop(0))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: visible[0])
    monkeypatch.setattr(cv2, "destroyWindow", closed.append)
    picture = np.full((48, 64, 3), (200, 0, 0), np.uint8)
    one = Window("title")
    one.close()
    assert closed == []
    assert [one.show(picture) for _ in range(4)] == ["k", "", "q", "x"]
    assert tuple(shown[0][0, 0]) == (0, 0, 200)  # BGR
    visible[0] = 0.0
    assert one.show(picture) == "q"
    one.close()
    assert closed == ["title"]

    def gone(*_: object) -> None:
        raise cv2.error("no display")

    monkeypatch.setattr(cv2, "imshow", gone)
    assert Window("other").show(picture) == "q"
