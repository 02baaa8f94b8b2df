"""What can be named as a source, and what comes of it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import featherglue.video
from featherglue.errors import FeatherglueError, ImageError, UsageError
from featherglue.video import SourceError, open_source
from featherglue.video.capture import open_camera, quiet_opencv, within
from featherglue.video.sources import hide_password

MakeVideo = Callable[..., Path]
MakeFolder = Callable[..., Path]


def test_the_public_names_are_there() -> None:
    for name in featherglue.video.__all__:
        assert getattr(featherglue.video, name).__name__ == name
    assert dir(featherglue.video) == featherglue.video.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = featherglue.video.nothing


# --- videos ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["walk.avi", "walk.mp4"])
def test_every_frame_of_a_video(name: str, moving: list[np.ndarray], make_video: MakeVideo) -> None:
    with open_source(make_video(moving, name)) as source:
        assert (source.live, source.num_frames, source.rate) == (False, 8, 25.0)
        frames = list(source)
    assert [frame.number for frame in frames] == list(range(8))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(8) / 25, atol=2e-3)
    for frame, picture in zip(frames, moving, strict=True):
        assert frame.image.shape == picture.shape
        assert frame.image.dtype == np.uint8
        assert np.abs(frame.image.astype(int) - picture).mean() < 8
    assert source.problems == []
    assert source.num_delivered == 8
    assert all(frame.read_ms > 0 for frame in frames)


def test_some_frames_of_a_video(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    with open_source(make_video(moving), skip=3, rate=10) as source:
        assert source.num_frames == 3
        frames = list(source)
    assert [frame.number for frame in frames] == [0, 3, 6]
    np.testing.assert_allclose([frame.time for frame in frames], [0, 0.3, 0.6])
    assert np.abs(frames[1].image.astype(int) - moving[3]).mean() < 8


def test_a_video_that_is_cut_short(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    path = make_video(moving * 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_source(path) as source:
        frames = list(source)
    assert 8 <= len(frames) < 16
    assert source.problems == [
        f"{path}: ends after {len(frames)} of 24 frames; truncated or damaged"
    ]


def test_stopping_ends_after_the_frame(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    with open_source(make_video(moving)) as source:
        for frame in source:
            if frame.number == 2:
                source.stop()
    assert source.num_delivered == 3
    assert source.problems == []


def test_what_is_no_video(tmp_path: Path) -> None:
    for name, content, said in (
        ("a.mp4", b"this is text", "damaged, or not a video that OpenCV can read"),
        ("b.avi", b"", "the file is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=f"{name}: {said}"):
            open_source(tmp_path / name)
    with pytest.raises(SourceError, match=r"none\.mp4: no such file or folder"):
        open_source(tmp_path / "none.mp4")


def test_a_video_without_frames(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    path = make_video(moving)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"movi") + 4])
    with pytest.raises(SourceError, match=r"walk\.avi: "), open_source(path) as source:
        list(source)


# --- pictures -------------------------------------------------------------------------------


def test_a_folder_in_the_order_of_numbers(make_folder: MakeFolder, grey: np.ndarray) -> None:
    pictures = [np.full((16, 24), 10 * i, np.uint8) for i in range(12)]
    folder = make_folder(pictures)
    (folder / "notes.txt").write_text("no image")
    with open_source(str(folder), rate=5) as source:
        assert (source.live, source.num_frames, source.rate) == (False, 12, 5)
        frames = list(source)
    assert [int(frame.image[0, 0]) for frame in frames] == [10 * i for i in range(12)]
    assert [frame.name for frame in frames[9:]] == ["9.png", "10.png", "11.png"]
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 5)


def test_patterns_lists_and_one_picture(make_folder: MakeFolder) -> None:
    folder = make_folder([np.full((16, 24), 10 * i, np.uint8) for i in range(12)])
    cv2.imwrite(str(folder / "x1.png"), np.zeros((16, 24), np.uint8))

    def names(source: object) -> list[str]:
        with open_source(source) as frames:
            return [frame.name for frame in frames]

    numbers = [f"{i}.png" for i in range(12)]
    assert names(f"{folder}/[0-9]*.png") == numbers
    assert names(f"{folder}/%d.png") == numbers
    assert names(f"{folder}/%04d.png") == numbers
    assert names(folder / "3.png") == ["3.png"]
    assert names([folder / "7.png", str(folder / "2.png")]) == ["7.png", "2.png"]
    odd = folder / "a[1].png"
    cv2.imwrite(str(odd), np.zeros((16, 24), np.uint8))
    assert names(odd) == ["a[1].png"]
    with pytest.raises(SourceError, match="no image matches this pattern"):
        open_source(f"{folder}/*.jpg")


def test_bad_pictures_are_reported_and_passed_over(
    make_folder: MakeFolder, moving: list[np.ndarray]
) -> None:
    folder = make_folder(moving[:4])
    (folder / "1.png").write_bytes(b"nothing")
    with open_source(folder) as source:
        assert [frame.number for frame in source] == [0, 2, 3]
    assert len(source.problems) == 1
    assert "1.png" in source.problems[0]
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    with (
        pytest.raises(SourceError, match=r"no frame could be read: .*0\.png"),
        open_source(folder) as source,
    ):
        list(source)


def test_a_cut_picture_is_reported_once(
    make_folder: MakeFolder, moving: list[np.ndarray], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(moving[:3])
    path = folder / "1.png"
    path.write_bytes(path.read_bytes()[:2000])
    with open_source(folder) as source:
        assert len(list(source)) == 2
    assert len(source.problems) == 1
    assert capfd.readouterr().err == ""


def test_stopping_among_bad_pictures(make_folder: MakeFolder, moving: list[np.ndarray]) -> None:
    folder = make_folder(moving[:4])
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(b"nothing")
    with open_source(folder) as source:
        source.stop()
        assert list(source) == []
    assert source.problems == []


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no images here"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="list of images is empty"):
        open_source([])
    with pytest.raises(UsageError, match="a video must be the only source"):
        open_source([tmp_path / "a.png", tmp_path / "b.mp4"])


# --- cameras and addresses ------------------------------------------------------------------


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """A web server; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(BaseHTTPRequestHandler):
    content = b""

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)


def test_a_video_behind_an_address(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    class Video(Quiet):
        content = make_video(moving, "walk.avi").read_bytes()

    with (
        serving(Video) as port,
        open_source(f"http://127.0.0.1:{port}/walk.avi?key=1", timeout=5) as source,
    ):
        assert not source.live
        assert [frame.number for frame in source] == list(range(8))


def test_an_address_in_capitals(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    class Video(Quiet):
        content = make_video(moving, "walk.avi").read_bytes()

    with (
        serving(Video) as port,
        open_source(f"HTTP://127.0.0.1:{port}/walk.avi", timeout=5) as source,
    ):
        assert len(list(source)) == 8


def test_a_server_that_cannot_seek(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    """The index of such an mp4 comes last, and the pictures before it are then out of reach."""

    class Video(Quiet):
        content = make_video([np.tile(picture, (3, 3)) for picture in moving] * 6, "walk.mp4")
        content = content.read_bytes()

    with (
        serving(Video) as port,
        pytest.raises(SourceError, match=r"no frame could be read: download it"),
        open_source(f"http://127.0.0.1:{port}/walk.mp4", timeout=5) as source,
    ):
        list(source)


def test_a_stream_behind_an_address(moving: list[np.ndarray]) -> None:
    class Stream(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=next")
            self.end_headers()
            for i in range(60):
                jpeg = cv2.imencode(".jpg", moving[i % 8])[1].tobytes()
                self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\n")
                self.wfile.write(b"Content-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n")
                time.sleep(0.01)

    with serving(Stream) as port:
        with open_source(f"http://127.0.0.1:{port}/camera", timeout=3) as source:
            assert source.live
            frames = []
            for frame in source:
                frames.append(frame)
                if len(frames) == 5:
                    source.stop()
        assert frames[0].image.shape == moving[0].shape
        assert np.all(np.diff([frame.number for frame in frames]) >= 1)


@pytest.mark.parametrize("ending", ["stream", "film.mp4"])
def test_an_address_that_never_answers(ending: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, start = server.getsockname()[1], time.monotonic()
        with pytest.raises(SourceError, match=r"no answer within 0\.5 s \(`timeout`\)"):
            open_source(f"http://127.0.0.1:{port}/{ending}", timeout=0.5)
        assert time.monotonic() - start < 3


def test_an_address_where_nobody_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SourceError, match="cannot be opened; check that the address is right"):
        open_source(f"rtsp://me:secret@127.0.0.1:{port}/x", timeout=5)


def test_passwords_are_not_shown() -> None:
    assert hide_password("rtsp://me:se@cret@host/x") == "rtsp://me:***@host/x"
    assert hide_password("rtsp://host:554/x@y:z") == "rtsp://host:554/x@y:z"


def test_no_camera(capfd: pytest.CaptureFixture[str]) -> None:
    for source in (99, "99"):
        with pytest.raises(
            SourceError, match="camera 99: cannot be opened; check that it is connected"
        ):
            open_source(source)
    assert capfd.readouterr() == ("", "")


class Webcam:
    """Gives 640×480 at 30 frames a second, whatever it is asked for."""

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


def test_what_a_camera_does_not_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Webcam] = []

    def capture(device: object) -> Webcam:
        made.append(Webcam(device))
        return made[-1]

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    open_camera(0, "camera 0", (640, 480), 30)
    open_camera(0, "camera 0", None, None)
    assert not any(camera.released for camera in made)
    for size, rate, said in (
        ((1280, 720), None, "`camera_size=(1280, 720)`; it offers 640×480"),
        (None, 60, "`rate=60`; it offers 29.97"),
    ):
        with pytest.raises(SourceError, match=re.escape(f"camera 0: does not offer {said}")):
            open_camera(0, "camera 0", size, rate)
        assert made[-1].released


def test_the_log_level_comes_back_after_threads_that_overlap() -> None:
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
    assert logging.getLogLevel() == logging.LOG_LEVEL_SILENT  # the other one is still inside
    leave.set()
    thread.join()
    assert logging.getLogLevel() == before


def test_a_call_that_comes_too_late_is_discarded() -> None:
    go, discarded = threading.Event(), threading.Event()
    with pytest.raises(SourceError, match="slow: no answer"):
        within(0.05, "slow", go.wait, lambda _: discarded.set())
    go.set()
    assert discarded.wait(2)
    assert within(5, "quick", lambda: 3, lambda _: None) == 3
    with pytest.raises(KeyError):
        within(5, "bad", lambda: {}["x"], lambda _: None)


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("a.mp4", {"skip": 0}, "`skip`"),
        ("a.mp4", {"rate": 0}, "`rate`"),
        ("a.mp4", {"timeout": -1}, "`timeout`"),
        ("a.mp4", {"camera_size": (640, 480)}, "`camera_size` applies only to cameras"),
        ("0", {"camera_size": (0, 480)}, "`camera_size` must be"),
        ("0", {"skip": 2}, "newest frame"),
        ("rtsp://x/y", {"skip": 2}, "newest frame"),
        ("ftp://x/y", {}, "ftp:// is not supported"),
        ("file:///a.mp4", {}, "name a file by its path"),
    ],
)
def test_what_cannot_be_honoured(source: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_source(source, **options)
    assert isinstance(caught.value, FeatherglueError)
    assert caught.value.exit_code == 2
