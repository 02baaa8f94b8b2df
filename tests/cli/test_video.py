"""`featherglue video`: output, files and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import featherglue
from featherglue.cli import main, video
from featherglue.cli.progress import ProgressDisplay
from featherglue.cli.video_report import VideoReport
from featherglue.errors import ImageError
from featherglue.session import Session
from featherglue.video import TrackWriter, sources

SIFT = ("--features", "sift", "--matcher", "nn")  # finds nothing in a blank image
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """run(*arguments): exit code, standard output and standard error, in an empty folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "", raising=False)  # open no windows

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["video", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        assert "internal error" not in captured.err
        return code, captured.out, captured.err

    return call


@pytest.fixture
def frames(tmp_path: Path, gray: np.ndarray) -> Path:
    """Six overlapping frames."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(6):
        picture = gray[8 * i :, 8 * i :][:208, :272]
        cv2.imwrite(str(folder / f"{i}.png"), picture)
    return folder


def count(path: Path) -> int:
    """Number of readable frames of a video."""
    capture, frames = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        frames += 1
    capture.release()
    return frames


def lines(out: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The JSON lines of the frames, and the summary."""
    *frames, last = [json.loads(line) for line in out.splitlines()]
    return frames, last["summary"]


# --- printed output -------------------------------------------------------------------------


def test_the_summary_and_the_reason_for_no_window(run: Run, matching: Path, frames: Path) -> None:
    code, out, err = run(frames, "--model", matching)
    assert code == 0
    for word in ("frames      6 in", "frames/s", "matches", "extract", "total"):
        assert word in out
    assert err.startswith("no window: ")
    assert "write the pictures to a file with -o" in err
    assert list(Path().iterdir()) == []
    assert run(frames, "--model", matching, "--no-display")[2] == ""


def test_progress_lines_where_there_is_no_terminal(
    run: Run, matching: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProgressDisplay, "line_seconds", 0.0)
    _, _, err = run(frames, "--model", matching, "--no-display")
    progress = err.splitlines()
    assert len(progress) == 6
    assert progress[1].startswith("matching: 2 of 6 frames, ")
    assert all(" frames/s" in line and " matches " in line for line in progress[1:])
    _, _, err = run(frames, "--model", matching, "--skip", 2, "--max-frames", 2, "--no-display")
    assert "matching: 2 of 2 frames, " in err


def test_json_lines(run: Run, matching: Path, frames: Path) -> None:
    code, out, err = run(frames, "--model", matching, "--json", "-", "--fps", 5, "-o", "out/")
    assert (code, err) == (0, "")
    rows, summary = lines(out)
    assert [row["frame"] for row in rows] == list(range(6))
    assert [row["time"] for row in rows] == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert [row["against"] for row in rows] == [None, 0, 1, 2, 3, 4]
    assert [row["name"] for row in rows] == [f"{i}.png" for i in range(6)]
    assert rows[0]["matches"] == 0
    for row in rows[1:]:
        assert row["keypoints"] >= row["matches"] >= row["refined"] > 30
        assert set(row["ms"]) == {"read", "extract", "match", "refine", "total", "show"}
        stages = sum(row["ms"][name] for name in ("read", "extract", "match", "refine"))
        assert row["ms"]["total"] > stages - 0.03  # and waiting with lookahead
        assert row["ms"]["show"] > 0
        assert row["dropped"] == 0
    assert summary["frames"] == 6
    assert summary["output"] == "out"
    assert summary["problems"] == []
    assert summary["interrupted"] is False
    assert summary["ms"]["total"] > 0
    assert len(list(Path("out").glob("frame_*.jpg"))) == 6


def test_the_first_frame_does_not_count_in_the_medians(
    run: Run, matching: Path, frames: Path
) -> None:
    """It has no counterpart: the lower median of two frames would be 0."""
    code, out, _ = run(frames, "--model", matching, "--max-frames", 2, "--json", "-")
    assert code == 0
    rows, summary = lines(out)
    assert summary["matches"] == rows[1]["matches"] > 30
    for name in ("match", "refine", "total"):
        assert summary["ms"][name] == pytest.approx(rows[1]["ms"][name], rel=0.02)
    assert "show" not in summary["ms"]
    _, out, _ = run(frames, "--model", matching, "--max-frames", 1, "--json", "-")
    assert set(lines(out)[1]["ms"]) == {"read", "extract"}


def test_file_names_that_are_not_utf8(run: Run, matching: Path, frames: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    try:
        (frames / "0.png").rename(frames / name)
    except OSError:
        pytest.skip("the file system does not allow this name")
    code, out, err = run(frames, "--model", matching, "--max-frames", 6, "--json", "-")
    assert (code, err) == (0, "")
    assert name in [row["name"] for row in lines(out)[0]]


@pytest.mark.parametrize(
    ("options", "numbers", "against"),
    [
        (["--skip", 2], [0, 2, 4], [None, 0, 2]),
        (["--max-frames", 2], [0, 1], [None, 0]),
        (["--anchor", "--max-frames", 3], [0, 1, 2], [None, 0, 0]),
        (["--reference", "{0}/0.png", "--max-frames", 2], [0, 1], [None, None]),
    ],
)
def test_selected_frames_and_counterparts(
    options: list[Any],
    numbers: list[int],
    against: list[int | None],
    run: Run,
    matching: Path,
    frames: Path,
) -> None:
    given = [str(option).format(frames) for option in options]
    code, out, _ = run(frames, "--model", matching, "--json", "-", *given)
    assert code == 0
    rows, _ = lines(out)
    assert [row["frame"] for row in rows] == numbers
    assert [row["against"] for row in rows] == against
    assert rows[-1]["matches"] > 30


def test_options_reach_the_session(run: Run, matching: Path, frames: Path) -> None:
    def keypoints(*options: object) -> int:
        code, out, _ = run(frames, "--model", matching, "--json", "-", "--max-frames", 2, *options)
        assert code == 0
        return lines(out)[0][1]["keypoints"]

    every = keypoints()
    assert keypoints("--max-keypoints", 40) == 40
    assert keypoints("--resize", 120, 100) < every
    assert keypoints("--keypoint-threshold", 0.9) < every
    _, out, _ = run(frames, "--model", matching, "--json", "-", "--no-refine", "--threads", 1)
    assert lines(out)[1]["ms"]["refine"] == 0
    images = sorted(frames.iterdir())[:3]
    code, out, _ = run(*images, *SIFT, "--json", "-")
    assert code == 0
    assert lines(out)[0][2]["matches"] > 30


# --- files ----------------------------------------------------------------------------------


def test_a_video_and_tracks(run: Run, matching: Path, frames: Path) -> None:
    code, out, err = run(
        frames, "--model", matching, "--track", "--min-track-length", 4, "-o", "out.avi"
    )
    assert (code, err) == (0, "")
    assert sorted(path.name for path in Path().iterdir()) == ["out.avi", "out_tracks.npz"]
    assert count(Path("out.avi")) == 6
    assert "output      out.avi" in out
    with np.load("out_tracks.npz") as arrays:
        tracks, frequency = np.unique(arrays["track"], return_counts=True)
    assert frequency.min() >= 4
    assert f"tracks      {len(tracks)}: out_tracks.npz" in out


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (["--track"], "tracks.npz"),
        (["--tracks", "points.csv"], "points.csv"),
        (["--track", "-o", "out"], "out/tracks.npz"),
    ],
)
def test_the_path_of_tracks(
    options: list[str], written: str, run: Run, matching: Path, frames: Path
) -> None:
    code, out, _ = run(frames, "--model", matching, "--json", "-", *options)
    assert code == 0
    assert Path(written).is_file()
    summary = lines(out)[1]
    assert summary["tracks_file"] == written
    assert summary["tracks"] > 30


def test_blank_frames_and_other_sizes(run: Run, matching: Path, frames: Path) -> None:
    cv2.imwrite(str(frames / "2.png"), np.full((208, 272), 127, np.uint8))
    large = cv2.imread(str(frames / "4.png"), 0)
    assert large is not None
    cv2.imwrite(str(frames / "4.png"), cv2.resize(large, (326, 250)))
    code, out, err = run(frames, *SIFT, "-o", "out.mp4", "--json", "-")
    assert (code, err) == (0, "")
    rows, _ = lines(out)
    assert [row["matches"] > 0 for row in rows] == [False, True, False, False, True, True]
    assert count(Path("out.mp4")) == 6


def test_a_damaged_frame_is_reported(run: Run, matching: Path, frames: Path) -> None:
    (frames / "3.png").write_bytes(b"nothing")
    code, out, err = run(frames, "--model", matching, "--json", "-", "-o", "out.avi")
    assert code == 1
    assert err.startswith("warning: ")
    assert "3.png" in err
    assert len(err.splitlines()) == 1
    rows, summary = lines(out)
    assert [row["frame"] for row in rows] == [0, 1, 2, 4, 5]
    assert summary["problems"] == [err.removeprefix("warning: ").strip()]
    assert count(Path("out.avi")) == 5


def test_without_a_frame_no_file_is_written(run: Run, frames: Path) -> None:
    for path in frames.iterdir():
        path.write_bytes(b"nothing")
    code, out, err = run(frames, *SIFT, "--track", "-o", "out.mp4")
    assert (code, out) == (1, "")
    assert "no frame could be read" in err
    assert list(Path().iterdir()) == []


SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Signal handlers as in a terminal; a process in the background of a shell ignores some."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interruption_leaves_readable_files(
    number: signal.Signals,
    run: Run,
    matching: Path,
    frames: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, handlers = (
        VideoReport.frame,
        (signal.getsignal(signal.SIGINT), signal.getsignal(number)),
    )

    def interrupting(self: VideoReport, item: Any, *rest: Any) -> None:
        before(self, item, *rest)
        if item.frame.number == 3:
            signal.raise_signal(number)

    monkeypatch.setattr(VideoReport, "frame", interrupting)
    code, out, err = run(frames, "--model", matching, "--json", "-", "--track", "-o", "out.mp4")
    assert (code, err.strip()) == (130, "stopped")
    rows, summary = lines(out)
    assert len(rows) == summary["frames"] == 4
    assert summary["interrupted"] is True
    assert count(Path("out.mp4")) == 4
    with np.load("out_tracks.npz") as arrays:
        assert set(arrays["frame"]) == {0, 1, 2, 3}
    assert len(list(Path().iterdir())) == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(number)) == handlers


def test_a_signal_while_files_are_finished(
    run: Run, matching: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = TrackWriter.close

    def interrupted(self: TrackWriter) -> None:
        signal.raise_signal(signal.SIGINT)
        close(self)

    monkeypatch.setattr(TrackWriter, "close", interrupted)
    code, out, _ = run(frames, "--model", matching, "--json", "-", "--track", "-o", "out.mp4")
    assert code == 0
    assert lines(out)[1]["interrupted"] is False
    assert count(Path("out.mp4")) == 6
    with np.load("out_tracks.npz") as arrays:
        assert set(arrays["frame"]) == set(range(6))


@pytest.mark.usefixtures("default_signals")
def test_a_signal_before_the_first_frame(
    run: Run, matching: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any, **options: Any) -> Session:
        signal.raise_signal(signal.SIGINT)
        return featherglue.load(*arguments, **options)

    monkeypatch.setattr(video, "load", load)
    code, out, err = run(frames, "--model", matching, "--track", "-o", "out.mp4")
    assert (code, err.strip()) == (130, "stopped")
    assert len(out.splitlines()) == 1
    assert out.startswith("frames      0 in ")
    assert list(Path().iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_an_ignored_signal_stays_ignored(
    run: Run, matching: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under `nohup`."""
    before, shown = signal.signal(signal.SIGHUP, signal.SIG_IGN), VideoReport.frame

    def hanging_up(self: VideoReport, *arguments: Any) -> None:
        shown(self, *arguments)
        signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(VideoReport, "frame", hanging_up)
    try:
        code, out, _ = run(frames, "--model", matching, "--json", "-")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert code == 0
    assert lines(out)[1]["frames"] == 6


def test_an_error_leaves_readable_files(
    run: Run, matching: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, left = Session.run_extractor, iter(range(4))

    def failing(self: Session, image: Any, watch: Any = None) -> Any:
        if next(left, None) is None:
            raise ImageError("frame: too large")
        return begin(self, image)

    monkeypatch.setattr(Session, "run_extractor", failing)
    code, _, err = run(frames, "--model", matching, "--track", "-o", "out.mp4")
    assert (code, err) == (1, "error: frame: too large\n")
    assert count(Path("out.mp4")) == 4
    assert Path("out_tracks.npz").is_file()


# --- live -----------------------------------------------------------------------------------


class Camera:
    """A camera that delivers `left` pictures, one for each permit."""

    def __init__(self, pictures: list[np.ndarray]) -> None:
        self.pictures, self.left = pictures, 10_000
        self.permits, self.released = threading.Semaphore(1), threading.Event()

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        if self.left < 0:
            return False, None
        self.permits.acquire(timeout=0.05)  # the next one comes soon in any case
        return True, self.pictures[self.left % len(self.pictures)]

    def release(self) -> None:
        self.released.set()


@pytest.fixture
def camera(frames: Path, monkeypatch: pytest.MonkeyPatch) -> Camera:
    """A camera that delivers two pictures for each frame that was reported."""
    pictures = [cv2.imread(str(path)) for path in sorted(frames.iterdir())]
    made, report = Camera(pictures), VideoReport.frame

    def reporting(self: VideoReport, *arguments: Any) -> None:
        report(self, *arguments)
        made.permits.release(2)

    monkeypatch.setattr(VideoReport, "frame", reporting)
    monkeypatch.setattr(sources, "open_camera", lambda *_: made)
    return made


def test_a_camera(run: Run, matching: Path, camera: Camera) -> None:
    code, out, _ = run(0, "--model", matching, "--max-frames", 8, "--json", "-", "-o", "out.avi")
    assert code == 0
    rows, summary = lines(out)
    assert len(rows) == 8
    numbers = [row["frame"] for row in rows]
    assert numbers == sorted(set(numbers))
    assert rows[-1]["dropped"] >= numbers[-1] - numbers[0] - 7
    assert summary["dropped"] >= rows[-1]["dropped"]
    assert count(Path("out.avi")) > 0
    assert camera.released.wait(5)


def test_a_camera_that_is_disconnected(run: Run, matching: Path, camera: Camera) -> None:
    camera.left = 4
    options = ["--model", matching, "--json", "-", "--timeout", 0.3, "-o", "out.avi"]
    code, out, err = run("/dev/null", *options)  # a device file
    assert code == 1
    assert err == "warning: /dev/null: no frame for 0.3 s\n"
    assert lines(out)[1]["frames"] > 0
    assert count(Path("out.avi")) > 0


def test_a_window(run: Run, matching: Path, frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, shown, closed = ["", "f", "n", "k", "", "q"], [], []

    class Window:
        def __init__(self, title: str) -> None:
            assert title == "featherglue 12 images"

        def show(self, picture: np.ndarray) -> str:
            shown.append(picture)
            return keys[len(shown) - 1]

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(video, "why_no_window", lambda: "")
    monkeypatch.setattr(video, "Window", Window)
    images = sorted(frames.iterdir())
    code, out, err = run(*images, *images, "--model", matching, "--json", "-")
    assert (code, err) == (0, "")
    rows, _ = lines(out)
    assert [row["against"] for row in rows] == [None, 0, 1, 2, 2, 2]  # n on frame 2, q on frame 5
    assert len(shown) == 6
    assert closed


# --- usage errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "SOURCE"),
        (["none.mp4"], 1, "none.mp4: no such file or folder"),
        (["none/*.png"], 1, "no image matches this pattern"),
        (["{0}", "--anchor", "--reference", "{0}/0.png"], 2, "exclude each other"),
        (["{0}", "--track", "--anchor"], 2, "--track needs matches"),
        (["{0}", "--min-track-length", "3"], 2, "needs --track"),
        (["{0}", "--tracks", "tracks.txt"], 2, ".npz or .csv"),
        (["{0}", "--display"], 2, "--display: this OpenCV is built without windows"),
        (["{0}", "-o", "{0}"], 2, "the command reads it"),
        (["{0}", "-o", "out.png"], 2, "a video ends in .mp4"),
        (["{0}", "--resize", "3"], 2, "resize"),
        (["{0}", "--skip", "0"], 2, "--skip"),
        (["{0}", "--fps", "-3"], 2, "--fps"),
        (["{0}", "--camera-size", "640", "480"], 2, "--camera-size applies only to cameras"),
        (["{0}", "--reference", "none.png"], 1, "none.png: no such file"),
        (["{0}/0.png", "{0}/a.mp4"], 2, "a video must be the only source"),
        (["{0}", "--lookahead", "--threads", "1"], 2, "--lookahead needs at least 2 threads"),
        (["0", "--skip", "2"], 2, "newest frame"),
    ],
)
def test_usage_errors(
    arguments: list[str],
    code: int,
    message: str,
    run: Run,
    matching: Path,
    frames: Path,
) -> None:
    given = [argument.format(frames) for argument in arguments]
    got, out, err = run(*given, "--model", matching, "--json", "-")
    assert got == code
    assert out == ""
    assert message in err
    assert not list(Path().glob("*"))


def test_an_error_is_the_only_line(run: Run) -> None:
    assert run("none.mp4") == (1, "", "error: none.mp4: no such file or folder\n")


def test_opencv_prints_nothing(tmp_path: Path) -> None:
    """In a new process, because FFmpeg reads its log level at the first use."""
    (tmp_path / "cut.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(500))
    for source, message in (
        ("cut.mp4", "damaged, or not a video"),
        ("98", "cannot be opened"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "featherglue", "video", source, "--json", "-"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "200"},
            timeout=300,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_json_lines_in_a_file(run: Run, matching: Path, frames: Path) -> None:
    code, out, err = run(frames, "--model", matching, "--json", "lines.json")
    assert (code, err) == (0, "")
    assert out.startswith("frames      6 in ")
    rows, summary = lines(Path("lines.json").read_text())
    assert len(rows) == summary["frames"] == 6
