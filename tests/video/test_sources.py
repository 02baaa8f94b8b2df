"""Opening sources by their name."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import pytest

import featherglue.video
from featherglue.errors import FeatherglueError, UsageError
from featherglue.video import SourceError, open_source
from featherglue.video.sources import hide_password

MakeVideo = Callable[..., Path]


def test_the_public_names_exist() -> None:
    for name in featherglue.video.__all__:
        assert getattr(featherglue.video, name).__name__ == name
    assert dir(featherglue.video) == featherglue.video.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = featherglue.video.nothing


# --- cameras and addresses ------------------------------------------------------------------


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Run a web server. Yields its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=60)


class Quiet(BaseHTTPRequestHandler):
    content = b""

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)


def test_a_video_at_an_address(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    class Video(Quiet):
        content = make_video(moving, "walk.avi").read_bytes()

    with (
        serving(Video) as port,
        open_source(f"http://127.0.0.1:{port}/walk.avi?key=1", timeout=5) as source,
    ):
        assert not source.live
        assert [frame.number for frame in source] == list(range(8))


def test_an_address_in_upper_case(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    class Video(Quiet):
        content = make_video(moving, "walk.avi").read_bytes()

    with (
        serving(Video) as port,
        open_source(f"HTTP://127.0.0.1:{port}/walk.avi", timeout=5) as source,
    ):
        assert len(list(source)) == 8


def test_a_server_without_range_requests(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    """The index of an mp4 is at its end, so the frames before it cannot be read."""

    class Video(Quiet):
        content = make_video([np.tile(picture, (3, 3)) for picture in moving] * 6, "walk.mp4")
        content = content.read_bytes()

    with (
        serving(Video) as port,
        pytest.raises(SourceError, match=r"no frame could be read: download it"),
        open_source(f"http://127.0.0.1:{port}/walk.mp4", timeout=5) as source,
    ):
        list(source)


def test_a_stream_at_an_address(moving: list[np.ndarray]) -> None:
    class Stream(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=next")
            self.end_headers()
            with suppress(ConnectionError):  # the reader hangs up
                for picture in cycle(moving):
                    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
                    self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\n")
                    self.wfile.write(b"Content-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n")

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


def test_an_address_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SourceError, match="cannot be opened; check that the address is right"):
        open_source(f"rtsp://me:secret@127.0.0.1:{port}/x", timeout=5)


def test_passwords_are_hidden() -> None:
    assert hide_password("rtsp://me:se@cret@host/x") == "rtsp://me:***@host/x"
    assert hide_password("rtsp://host:554/x@y:z") == "rtsp://host:554/x@y:z"


@pytest.mark.parametrize(
    ("source", "options", "message"),
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
def test_arguments_that_do_not_apply(source: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_source(source, **options)
    assert isinstance(caught.value, FeatherglueError)
    assert caught.value.exit_code == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_without_a_writer_ends_at_the_timeout(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match=r"pipe: no answer within 0.05 s"):
        open_source(tmp_path / "pipe", timeout=0.05)
    with suppress(OSError):  # releases the thread, if it has reached the pipe by now
        os.close(os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK))


# --- arrays, captures and unusual names ------------------------------------------------------


def test_a_list_of_arrays_and_a_capture(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    images = [np.full((48, 64), 10 * i, np.uint8) for i in range(5)]
    with open_source(images, skip=2) as source:
        frames = list(source)
    assert [frame.number for frame in frames] == [0, 2, 4]
    assert [int(frame.image[0, 0]) for frame in frames] == [0, 20, 40]
    path = make_video(moving)
    with open_source(path) as source:
        expected = [frame.image for frame in source]
    with open_source(cv2.VideoCapture(str(path))) as source:
        found = [frame.image for frame in source]
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(UsageError, match="a list of images or a capture, not dict"):
        open_source({})  # type: ignore[arg-type]


def test_a_name_with_a_colon_is_a_file(
    moving: list[np.ndarray],
    make_video: MakeVideo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(moving).rename("walk:1.avi")
    with open_source("walk:1.avi") as source:
        assert len(list(source)) > 1


def test_a_glob_in_a_folder_with_brackets(tmp_path: Path) -> None:
    folder = tmp_path / "run [1]" / "frames*"
    folder.mkdir(parents=True)
    for name in ("a1.png", "a2.png", "._a1.png", "b.txt"):
        cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8), np.uint8))
        (tmp_path / "x.png").rename(folder / name)
    with open_source(f"{folder}/a?.png") as source:
        assert [frame.name for frame in source] == ["a1.png", "a2.png"]
    with open_source(f"{folder}/*") as source:
        assert [frame.name for frame in source] == ["a1.png", "a2.png"]


def test_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    import PIL.Image

    frames = [PIL.Image.fromarray(np.full((48, 64), 60 * i, np.uint8)) for i in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    frames[2].save(tmp_path / "b.gif")
    with open_source(tmp_path / "a.gif") as source:
        assert len(list(source)) == 4
    with open_source(tmp_path / "b.gif") as source:
        (frame,) = source
    assert frame.name == "b.gif"


def test_a_name_that_no_file_can_have_is_misuse() -> None:
    with pytest.raises(UsageError, match=r"'x{80}' cannot be the name of a source"):
        open_source("x" * 5000)
