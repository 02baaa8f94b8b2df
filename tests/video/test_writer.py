"""Videos and folders of pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from featherglue.errors import OutputError, UsageError
from featherglue.video import Frame
from featherglue.video.writer import PictureFolder, VideoWriter, fit, open_writer, writable_rate


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


def test_an_error_keeps_the_video(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt), open_writer(path, rate=20) as writer:
        writer.write(plain(100), frame(0))
        writer.write(plain(100), frame(1))
        raise KeyboardInterrupt
    assert len(read_video(path)) == 2


def test_without_a_frame_no_file_is_written(tmp_path: Path) -> None:
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


def test_a_live_video_runs_in_real_time(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    with open_writer(path, rate=10, real_time=True) as writer:
        assert isinstance(writer, VideoWriter)
        for i, seconds in enumerate([5.0, 5.02, 5.3, 5.4, 65.4]):
            writer.write(plain(50 * i), frame(i, seconds))
    red = [int(picture[20, 20, 0]) for picture in read_video(path)]
    # The second picture lasts until 5.3; the pause of a minute is shortened to two seconds.
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
def test_a_video_that_could_only_be_written_in_part(
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
        message = "could not be written" if suffix == ".mp4" else r"only \d+ of 20 frames"
        with pytest.raises(OutputError, match=f"{message}.*; is the disk full"):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Failed to write" not in capfd.readouterr().err
    if suffix == ".mp4":  # its index is at the end
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


def test_unwritable_outputs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "file/out", "file/out.mp4"):
        with pytest.raises(OutputError, match="cannot be"):
            open_writer(tmp_path / name, rate=20)
    for name in ("out.png", "out.gif"):
        with pytest.raises(UsageError, match="a video ends in"):
            open_writer(tmp_path / name, rate=20)
