"""What is drawn, written and timed, and the keys."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from featherglue.errors import OutputError, UsageError
from featherglue.session import Session
from featherglue.video import Frame, FrameMatcher, FrameMatches, Tracker, window
from featherglue.video.overlay import captions, draw_frame, write_lines
from featherglue.video.timing import CountMedian, RunningMedian, StageTimes
from featherglue.video.window import Controls, Window, why_no_window
from featherglue.video.writer import PictureFolder, VideoWriter, fit, open_writer, writable_rate


@pytest.fixture
def items(classical: Session, moving: list[np.ndarray]) -> list[FrameMatches]:
    """Four frames, the last of them blank."""
    pictures = [*moving[:3], np.full_like(moving[0], 90)]
    frames = [Frame(number=i, time=i / 10, image=p) for i, p in enumerate(pictures)]
    return list(FrameMatcher(classical, tracking=True).run(frames))


# --- pictures -------------------------------------------------------------------------------


def test_matches_are_shown_side_by_side_and_tracks_on_the_frame(items: list[FrameMatches]) -> None:
    height, width = items[0].frame.image.shape
    for item in items:
        assert draw_frame(item).shape == (height, 2 * width + 8, 3)
    assert draw_frame(items[0], max_side=200).shape[1] <= 200
    tracker = Tracker()
    tracks = [tracker.update(item) for item in items]
    pictures = [
        draw_frame(item, track, min_track_length=2)
        for item, track in zip(items, tracks, strict=True)
    ]
    for item, picture in zip(items, pictures, strict=True):
        assert picture.shape == (height, width, 3)
        assert np.abs(picture.astype(int).max(2) - item.frame.image).mean() < 60
    coloured = [int((picture.max(2) != picture.min(2)).sum()) for picture in pictures]
    assert coloured[0] == coloured[3] == 0  # nothing has two frames yet, and a blank one
    assert 200 < coloured[1] < coloured[2]
    with_keypoints = draw_frame(items[0], tracks[0], keypoints=True, min_track_length=2)
    assert (with_keypoints != pictures[0]).any()


def test_captions_say_what_is_there(items: list[FrameMatches]) -> None:
    recent = {"extract": 20.04, "match": 12.0, "refine": 3.0, "total": 36.0}
    first, second, _, blank = (captions(item, recent, 24.96) for item in items)
    assert first[0] == "25.0 frames/s   extract 20.0  match 12.0  refine 3.0  total 36.0 ms"
    assert first[2] == "no matches: this is the first frame"
    assert len(second) == 2
    refined = int(items[1].matches.refined.sum())
    assert f"matches {len(items[1].matches)} ({refined} refined)" in second[1]
    assert blank[2] == "no keypoints: the frame is blank or blurred"
    assert "frames/s" not in captions(items[0], recent, 0.0)[0]
    every = {"read": 2.0, "show": 7.0, "total": 38.0} | recent
    assert captions(items[1], every, 0.0)[0].startswith("read 2.0  extract 20.0  match")
    assert captions(items[1], every, 0.0)[0].endswith("total 36.0  show 7.0 ms")


def test_a_frame_behind_a_blank_one_is_explained(
    classical: Session, moving: list[np.ndarray]
) -> None:
    pictures = [np.full_like(moving[0], 90), moving[0]]
    frames = [Frame(number=i, time=i / 10, image=p) for i, p in enumerate(pictures)]
    *_, last = FrameMatcher(classical).run(frames)
    assert captions(last, {}, 0.0)[2] == "no matches: the other frame has no keypoints"


@pytest.mark.parametrize("shape", [(480, 640), (480, 1288), (100, 120), (20, 12), (1500, 2000)])
@pytest.mark.parametrize("at_bottom", [False, True])
def test_lines_fit_the_picture(shape: tuple[int, int], at_bottom: bool) -> None:
    canvas = np.full((*shape, 3), 200, np.uint8)
    lines = ["25.0 frames/s   extract 20.0  match 12.0  refine 3.0  total 36.0 ms"] * 2
    write_lines(canvas, lines, at_bottom=at_bottom)
    changed = np.flatnonzero((canvas != 200).any((1, 2)))
    assert len(changed) > 0
    if min(shape) >= 400:
        half = slice(shape[0] // 2) if at_bottom else slice(shape[0] // 2, None)
        assert (canvas[half] == 200).all()
        assert canvas.max() == 255  # white is on it
    untouched = np.full((*shape, 3), 200, np.uint8)
    write_lines(untouched, [], at_bottom=at_bottom)
    assert (untouched == 200).all()


# --- files ----------------------------------------------------------------------------------


def read_video(path: Path) -> list[np.ndarray]:
    capture, pictures = cv2.VideoCapture(str(path)), []
    while True:
        ok, picture = capture.read()
        if not ok:
            capture.release()
            return pictures
        pictures.append(picture[..., ::-1])


def frame(number: int, seconds: float = 0.0) -> Frame:
    return Frame(number=number, time=seconds, image=np.zeros((8, 8), np.uint8))


def plain(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), (value, 0, 0), np.uint8)


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv", ".mov"])
def test_a_video_appears_when_it_is_complete(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"out{suffix}"
    with open_writer(path, rate=20) as writer:
        for i in range(5):
            writer.write(plain(40 * i, 47, 63), frame(i))
            assert not path.exists()
    pictures = read_video(path)
    assert [path.name for path in path.parent.iterdir()] == [path.name]
    assert writer.num_frames == len(pictures) == 5
    assert pictures[0].shape == (48, 64, 3)  # even sides
    red = [int(picture[20, 20, 0]) for picture in pictures]
    np.testing.assert_allclose(red, [0, 40, 80, 120, 160], atol=12)
    writer.close()


def test_a_video_is_kept_when_the_run_fails(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt), open_writer(path, rate=20) as writer:
        writer.write(plain(100), frame(0))
        writer.write(plain(100), frame(1))
        raise KeyboardInterrupt
    assert len(read_video(path)) == 2


def test_without_frames_nothing_is_written(tmp_path: Path) -> None:
    with open_writer(tmp_path / "out.mp4", rate=20):
        pass
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_another_size_are_fitted(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    with open_writer(path, rate=20) as writer:
        for i, (height, width) in enumerate([(48, 64), (96, 64), (24, 16), (48, 200)]):
            writer.write(plain(200, height, width), frame(i))
    pictures = read_video(path)
    assert {picture.shape for picture in pictures} == {(48, 64, 3)}
    assert [picture[4, 4, 0] > 150 for picture in pictures] == [True] * 4
    assert pictures[1][20, 60, 0] < 60  # beside the narrower picture
    assert fit(plain(9), (64, 48)).shape == (48, 64, 3)


def test_a_live_video_runs_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    with open_writer(path, rate=10, real_time=True) as writer:
        assert isinstance(writer, VideoWriter)
        for i, seconds in enumerate([5.0, 5.02, 5.3, 5.4, 65.4]):
            writer.write(plain(50 * i), frame(i, seconds))
    red = [int(picture[20, 20, 0]) for picture in read_video(path)]
    # The second picture stands until 5.3; the pause of a minute is cut to two seconds.
    np.testing.assert_allclose(red, [0, 50, 50, 100, *[150] * 21, 200], atol=12)
    assert writer.num_frames == 5


@pytest.mark.parametrize("rate", [0.004, 23.976, 119.88, 142.857, 333.333, 999.5])
@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_any_rate_can_be_written(rate: float, suffix: str, tmp_path: Path) -> None:
    assert writable_rate(rate) == pytest.approx(rate, rel=1e-3, abs=0.01)
    path = tmp_path / f"out{suffix}"
    with open_writer(path, rate=rate) as writer:
        for i in range(3):
            writer.write(plain(40 * i), frame(i))
    assert len(read_video(path)) == 3


def test_a_video_ends_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, free = tmp_path / "out.mp4", [10**9, 10**9, 10**6]
    usage = lambda _: SimpleNamespace(total=10**9, free=free.pop(0))  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", usage)
    with (
        pytest.raises(OutputError, match=r"out\.mp4: the disk is nearly full; free some space"),
        open_writer(path, rate=20) as writer,
    ):
        for i in range(3):
            writer.write(plain(40 * i), frame(i))
    assert len(read_video(path)) == 2


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_a_video_of_which_only_a_part_could_be_written(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    path, before = tmp_path / f"out{suffix}", resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 255, (20, 240, 320, 3), np.uint8)
    writer = open_writer(path, rate=20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    try:
        for i in range(20):
            writer.write(noise[i], frame(i))
        said = "could not be written" if suffix == ".mp4" else r"only \d+ of 20 frames"
        with pytest.raises(OutputError, match=f"{said}.*; is the disk full"):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Failed to write" not in capfd.readouterr().err
    if suffix == ".mp4":  # its index comes last
        assert list(tmp_path.iterdir()) == []
    else:
        assert 0 < len(read_video(path)) < 20


def test_pictures_in_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for name in (target, f"{tmp_path}/other.v1/"):
        with open_writer(name, rate=20) as writer:
            assert isinstance(writer, PictureFolder)
            for i in (0, 7):
                writer.write(plain(100, 20 + i, 30), frame(i))
    names = sorted(path.name for path in target.iterdir())
    assert names == ["frame_000000.jpg", "frame_000007.jpg"]
    picture = cv2.imread(str(target / names[1]))
    assert picture is not None
    assert picture.shape == (27, 30, 3)
    with pytest.raises(UsageError, match="pictures of another run"):
        open_writer(target, rate=20)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "file/out", "file/out.mp4"):
        with pytest.raises(OutputError, match="cannot be"):
            open_writer(tmp_path / name, rate=20)
    for name in ("out.png", "out.gif"):
        with pytest.raises(UsageError, match="a video ends in"):
            open_writer(tmp_path / name, rate=20)


# --- times ----------------------------------------------------------------------------------


def test_a_running_median_is_right_to_a_percent() -> None:
    median = RunningMedian()
    assert median.value() == 0
    values = np.random.default_rng(0).lognormal(3, 1, 1001)
    for value in values:
        median.add(float(value))
    assert median.value() == pytest.approx(np.median(values), rel=0.011)
    zeros = RunningMedian()
    for value in (0, 0, 5):
        zeros.add(value)
    assert zeros.value() == 0


def test_a_median_of_counts_is_exact() -> None:
    median = CountMedian()
    assert median.value() == 0
    for value in (512, 345, 0, 512, 371):
        median.add(value)
    assert median.value() == 371


def test_times_by_stage() -> None:
    times = StageTimes(window=3)
    assert (times.rate(), times.overall_rate(), times.recent()) == (0.0, 0.0, {})
    for i, spent in enumerate([100.0, 10.0, 10.0, 20.0, 30.0]):
        times.add({"match": spent}, now=[0, 8, 9, 9.5, 10][i])
    assert times.recent() == {"match": 20.0}
    assert times.overall()["match"] == pytest.approx(20, rel=0.01)
    assert times.rate() == pytest.approx(3 / 2)
    assert times.overall_rate() == pytest.approx(4 / 10)


# --- keys -----------------------------------------------------------------------------------


def test_keys(session: Session, moving: list[np.ndarray]) -> None:
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


def test_why_there_is_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_window_takes_keys_and_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, keys, visible, closed = [], [ord("k"), -1, 27, ord("x") + 256], [1.0], []
    monkeypatch.setattr(window, "why_no_window", lambda: "")
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _: keys.pop(0))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: visible[0])
    monkeypatch.setattr(cv2, "destroyWindow", closed.append)
    one = Window("title")
    one.close()
    assert closed == []
    assert [one.show(plain(200)) for _ in range(4)] == ["k", "", "q", "x"]
    assert tuple(shown[0][0, 0]) == (0, 0, 200)  # BGR
    visible[0] = 0.0
    assert one.show(plain(200)) == "q"
    one.close()
    assert closed == ["title"]

    def gone(*_: object) -> None:
        raise cv2.error("no display")

    monkeypatch.setattr(cv2, "imshow", gone)
    assert Window("other").show(plain(1)) == "q"
