"""Frames matched one after the other, and the tracks that come of it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.errors import ConfigError, ImageError, OutputError, UsageError
from featherglue.io.image import Image
from featherglue.matching.stopwatch import Stopwatch
from featherglue.session import RawFeatures, Session, load
from featherglue.video import (
    Frame,
    FrameMatcher,
    FrameMatches,
    FrameSource,
    Tracker,
    Tracks,
    TrackWriter,
    match_frames,
    open_source,
)
from featherglue.video.lookahead import lookahead


def frames(pictures: list[np.ndarray]) -> list[Frame]:
    return [Frame(number=i, time=i / 10, image=picture) for i, picture in enumerate(pictures)]


def to_and_fro(pictures: list[np.ndarray], count: int) -> list[np.ndarray]:
    there_and_back = pictures + pictures[-2:0:-1]
    return [there_and_back[i % len(there_and_back)] for i in range(count)]


class Counting(Session):
    """Counts what it extracts."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.extractor, session.matcher, session.processing, session.artifact)
        self.extracted = 0

    def run_extractor(self, image: Image, watch: Stopwatch | None = None) -> RawFeatures:
        self.extracted += 1
        return super().run_extractor(image, watch)


def shift(item: FrameMatches) -> np.ndarray:
    return np.median(item.matches.points1 - item.matches.points0, 0)


# --- matching -------------------------------------------------------------------------------


def test_each_frame_is_extracted_once_and_matched_with_the_previous(
    session: Session, moving: list[np.ndarray]
) -> None:
    counting = Counting(session)
    items = list(match_frames(counting, frames(moving)))
    assert counting.extracted == len(moving) == len(items)
    first = items[0]
    assert not first.matched
    assert (len(first.matches), first.against, first.dropped) == (0, None, 0)
    for before, item in pairwise(items):
        assert item.matched
        assert item.against == before.frame.number
        assert item.result.features0 is before.features
        assert len(item.matches) > 60
        np.testing.assert_allclose(shift(item), (-8, -8), atol=0.3)
        assert set(item.milliseconds) == {"read", "extract", "match", "refine", "total"}
        parts = sum(ms for name, ms in item.milliseconds.items() if name != "total")
        assert parts <= item.milliseconds["total"] < parts + 5  # and what lies between
    expected = session(moving[3], moving[4]).matches
    np.testing.assert_array_equal(items[4].matches.points1, expected.points1)


def test_extracting_ahead_changes_nothing_but_the_time(
    session: Session, moving: list[np.ndarray]
) -> None:
    plain = list(match_frames(session, frames(moving)))
    early = list(match_frames(session, frames(moving), lookahead=True))
    assert [item.frame.number for item in early] == [item.frame.number for item in plain]
    for one, other in zip(early, plain, strict=True):
        np.testing.assert_array_equal(one.matches.points1, other.matches.points1)
        assert one.against == other.against


class Sleepy(Session):
    """Takes its time over each image: more on fewer than two threads."""

    def __init__(self, session: Session, naps: dict[int, float], threads: int) -> None:
        super().__init__(session.extractor, session.matcher, session.processing)
        self.threads, self.naps, self.original = threads, naps, session

    def run_extractor(self, image: Image, watch: Stopwatch | None = None) -> RawFeatures:
        assert self.threads is not None
        time.sleep(self.naps[self.threads])
        return super().run_extractor(image, watch)

    def with_threads(self, threads: int | None) -> Session:
        assert threads is not None
        return Sleepy(self.original, self.naps, threads)


@pytest.mark.parametrize(("on_one_thread", "chosen", "threads"), [(0.03, True, 1), (0.3, False, 2)])
def test_ahead_is_chosen_where_it_is_faster(
    classical: Session,
    moving: list[np.ndarray],
    on_one_thread: float,
    chosen: bool,
    threads: int,
) -> None:
    matcher = FrameMatcher(Sleepy(classical, {2: 0.03, 1: on_one_thread}, 2))
    blank = [np.zeros_like(moving[0])] * 5  # by which nothing is seen
    seen = []
    for item in matcher.run(frames(blank + to_and_fro(moving, 30)), lookahead=None):
        time.sleep(0.03)
        seen.append((item.frame.number, matcher.lookahead))
    assert [number for number, _ in seen] == list(range(35))
    tried = [was for _, was in seen]
    assert tried[:18] == [False] * 18
    assert tried[18:30] == [True] * 12
    assert tried[32:] == [chosen] * 3
    assert matcher.session.threads == threads


@pytest.fixture
def two_threads(matching: Path) -> Session:
    return load(matching, threads=2, max_keypoints=200)


def test_whether_ahead_is_tried_or_not_the_matches_are_the_same(
    two_threads: Session, moving: list[np.ndarray]
) -> None:
    pictures = to_and_fro(moving, 40)
    plain = list(match_frames(two_threads, frames(pictures)))
    matcher, tried, ways = FrameMatcher(two_threads), [], set()
    for item in matcher.run(frames(pictures), lookahead=None):
        tried.append(item)
        ways.add(matcher.lookahead)
    assert ways == {False, True}
    assert [item.frame.number for item in tried] == list(range(len(plain)))
    for one, other in zip(tried, plain, strict=True):
        np.testing.assert_array_equal(one.matches.points1, other.matches.points1)
        assert one.against == other.against


def test_thresholds_that_change_while_ahead_is_tried_stay(
    two_threads: Session, moving: list[np.ndarray]
) -> None:
    matcher = FrameMatcher(two_threads)
    for item in matcher.run(frames(to_and_fro(moving, 40)), lookahead=None):
        if item.frame.number in (5, 18):
            now = matcher.session.processing
            matcher.session = matcher.session.with_settings(
                keypoint_threshold=now.keypoint_threshold / 2,
                match_threshold=now.match_threshold + 0.05,
            )
    before, after = two_threads.processing, matcher.session.processing
    assert after.keypoint_threshold == pytest.approx(before.keypoint_threshold / 4)
    assert after.match_threshold == pytest.approx(before.match_threshold + 0.1)


@pytest.mark.parametrize("last", [2, 12, 18, 28])
def test_a_source_that_is_stopped_while_ahead_is_tried_gives_no_further_frame(
    two_threads: Session, make_folder: Callable[..., Path], moving: list[np.ndarray], last: int
) -> None:
    with open_source(make_folder(to_and_fro(moving, 40))) as source:
        seen = []
        for item in match_frames(two_threads, source, lookahead=None):
            seen.append(item.frame.number)
            if item.frame.number == last:
                source.stop()
    assert seen == list(range(last + 1))


def test_ahead_is_not_tried_where_it_cannot_help(
    two_threads: Session, moving: list[np.ndarray]
) -> None:
    class Camera(FrameSource):
        live = True

        def _frames(self) -> Iterator[Frame]:
            yield from frames(to_and_fro(moving, 30))

        def close(self) -> None:
            pass

    one = two_threads.with_threads(1)
    own = Session(two_threads.extractor, two_threads.matcher, two_threads.processing)
    for session, source in (
        (two_threads, Camera("camera")),
        (own, frames(to_and_fro(moving, 30))),  # not loaded: its threads stay
        (one, frames(to_and_fro(moving, 30))),
        (load(features="sift", matcher="nn", threads=2), frames([np.zeros_like(moving[0])] * 30)),
    ):
        matcher = FrameMatcher(session)
        assert not any(matcher.lookahead for _ in matcher.run(source, lookahead=None))
        assert matcher.session is session


def test_the_next_frame_is_extracted_while_one_is_used(moving: list[np.ndarray]) -> None:
    started = threading.Semaphore(0)

    def work(number: int) -> Callable[[], int]:
        started.release()
        return lambda: number * number

    squares = lookahead(range(3), work)
    for expected in (0, 1, 4):
        assert next(squares) == expected
        assert started.acquire(timeout=5)
    assert list(squares) == []


def test_ahead_an_error_comes_in_its_turn_and_giving_up_takes_no_more() -> None:
    def work(number: int) -> Callable[[], int]:
        taken.append(number)
        if number == 2:
            raise ValueError("two")
        return lambda: number

    taken: list[int] = []
    numbers = lookahead(range(5), work)
    assert [next(numbers), next(numbers)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(numbers)
    taken.clear()
    numbers = lookahead(iter(range(3, 9)), work)
    assert next(numbers) == 3
    numbers.close()
    assert taken in ([3], [3, 4])


def test_ahead_whoever_waits_finishes() -> None:
    begun, used = threading.Semaphore(0), threading.Semaphore(0)
    by: list[str] = []

    def work(number: int) -> Callable[[], int]:
        if number == 2:
            assert used.acquire(timeout=5)  # the consumer waits for this one
            time.sleep(0.2)
        begun.release()

        def finish() -> int:
            by.append(threading.current_thread().name)
            return number

        return finish

    numbers = lookahead(range(4), work)
    assert next(numbers) == 0  # waited for from the start
    assert begun.acquire(timeout=5)
    assert begun.acquire(timeout=5)  # 1 is finished meanwhile
    time.sleep(0.2)
    assert next(numbers) == 1
    used.release()
    assert list(numbers) == [2, 3]
    ours = threading.current_thread().name
    assert [name == ours for name in by[:3]] == [True, False, True]


def test_ahead_a_source_that_is_stopped_gives_no_further_frame(
    session: Session, make_folder: Callable[..., Path], moving: list[np.ndarray]
) -> None:
    with open_source(make_folder(moving)) as source:
        seen = []
        for item in match_frames(session, source, lookahead=True):
            seen.append(item.frame.number)
            if len(seen) == 3:
                source.stop()
    assert seen == [0, 1, 2]


def test_ahead_no_frame_beyond_the_limit_is_read(
    session: Session, make_folder: Callable[..., Path], moving: list[np.ndarray]
) -> None:
    folder = make_folder(moving)
    sorted(folder.iterdir())[2].write_bytes(b"damaged")
    with open_source(folder) as source:
        items = list(FrameMatcher(session).run(source, lookahead=True, limit=2))
        assert (len(items), source.problems) == (2, [])


def test_ahead_nothing_is_read_once_matching_has_failed(
    session: Session, moving: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def slowly() -> Iterator[Frame]:
        for frame in frames(moving):
            time.sleep(0.05)
            read.append(frame.number)
            yield frame

    def fail(*_: object) -> None:
        raise RuntimeError("matching")

    monkeypatch.setattr(session, "match", fail)
    error: BaseException | None = None
    try:
        list(match_frames(session, slowly(), lookahead=True))
    except RuntimeError as caught:
        error = caught  # which keeps all that was running
    assert error is not None
    before = len(read)
    time.sleep(0.2)
    assert len(read) == before


def test_an_anchor_stays_until_another_is_chosen(
    session: Session, moving: list[np.ndarray]
) -> None:
    matcher = FrameMatcher(session, against="anchor")
    against = []
    for item in matcher.run(frames(moving)):
        against.append(item.against)
        if item.matched:
            assert item.against is not None
            distance = item.frame.number - item.against
            np.testing.assert_allclose(shift(item), (-8 * distance, -8 * distance), atol=0.5)
        if item.frame.number == 3:
            matcher.anchor()
    assert against == [None, 0, 0, 0, 3, 3, 3, 3]


def test_a_blank_frame_is_no_anchor(classical: Session, moving: list[np.ndarray]) -> None:
    blank = np.full_like(moving[0], 127)
    matcher = FrameMatcher(classical, against="anchor")
    against = []
    for item in matcher.run(frames([blank, moving[0], moving[1], blank, moving[2], moving[3]])):
        against.append(item.against)
        if item.frame.number == 3:
            matcher.anchor()
    assert against == [None, None, 1, 1, None, 4]
    with pytest.raises(ImageError, match="reference image has no keypoints"):
        FrameMatcher(classical, reference=blank)


def test_a_reference_picture(session: Session, moving: list[np.ndarray], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), moving[2])
    items = list(match_frames(session, frames(moving[:4]), reference=tmp_path / "a.png"))
    for i, item in enumerate(items):
        assert (item.matched, item.against) == (True, None)
        np.testing.assert_allclose(shift(item), (-8 * (i - 2), -8 * (i - 2)), atol=0.5)


def test_blank_and_resized_frames_are_no_errors(
    classical: Session, moving: list[np.ndarray]
) -> None:
    blank = np.full_like(moving[0], 127)
    large = cv2.resize(moving[0], (332, 250))
    items = list(match_frames(classical, frames([moving[0], blank, moving[0], large, moving[1]])))
    assert [len(item.matches) > 0 for item in items] == [False, False, False, True, True]
    assert len(items[1].features) == 0
    assert all(item.matched for item in items[1:])
    assert items[3].features.image_size == (332, 250)


def test_what_cannot_go_together(session: Session, moving: list[np.ndarray]) -> None:
    for options in ({"against": "anchor"}, {"reference": moving[0]}):
        with pytest.raises(UsageError, match="previous frame"):
            FrameMatcher(session, tracking=True, **options)
    with pytest.raises(UsageError, match="'previous' or 'anchor'"):
        FrameMatcher(session, against="next")
    with pytest.raises(UsageError, match="no anchor"):
        FrameMatcher(session, tracking=True).anchor()


def test_other_thresholds_on_the_same_networks(
    session: Session, matching: Path, moving: list[np.ndarray]
) -> None:
    strict = session.with_settings(keypoint_threshold=0.02, match_threshold=0.6)
    loaded = load(matching, threads=1, keypoint_threshold=0.02, match_threshold=0.6)
    assert strict.processing == loaded.processing
    assert strict.fingerprint() == loaded.fingerprint()
    assert strict.extractor.runtime is session.extractor.runtime
    found, expected, before = (one(*moving[:2]) for one in (strict, loaded, session))
    np.testing.assert_array_equal(found.matches.points1, expected.matches.points1)
    assert 0 < len(found.matches) < len(before.matches)
    with pytest.raises(ConfigError, match="match_threshold"):
        session.with_settings(match_threshold=1.5)
    sift = load(features="sift", matcher="nn").with_settings(match_threshold=0.5)
    assert len(sift(*moving[:2]).matches) > 10


# --- tracks ---------------------------------------------------------------------------------


def test_tracks_keep_their_identity_under_a_known_translation(
    session: Session, moving: list[np.ndarray]
) -> None:
    tracker, starts, errors = Tracker(trail=4), {}, []
    for item in match_frames(session, frames(moving), tracking=True):
        tracks = tracker.update(item)
        number = item.frame.number
        assert len(np.unique(tracks.ids)) == len(tracks) == len(item.features)
        assert tracks.lengths.max() == number + 1
        back = tracks.positions + np.float32([8 * number, 8 * number])  # in the first frame
        for track, length, point, trail in zip(
            tracks.ids, tracks.lengths, back, tracks.trails, strict=True
        ):
            if length == 1:
                starts[track] = point
            errors.append(np.linalg.norm(point - starts[track]))
            assert np.isfinite(trail[:length]).all()
            assert np.isnan(trail[length:]).all()
    assert (tracks.lengths == len(moving)).sum() > 30
    assert np.mean(np.array(errors) < 0.5) > 0.9


def test_tracks_start_anew_behind_a_blank_frame(
    classical: Session, moving: list[np.ndarray]
) -> None:
    tracker = Tracker()
    pictures = [moving[0], moving[1], np.zeros_like(moving[0]), moving[2], moving[3]]
    items = match_frames(classical, frames(pictures), tracking=True)
    tracks = [tracker.update(item) for item in items]
    assert [t.lengths.max() if len(t) else 0 for t in tracks] == [1, 2, 0, 1, 2]
    assert not set(tracks[1].ids) & set(tracks[3].ids)


def test_matches_with_another_frame_start_tracks_anew(
    session: Session, moving: list[np.ndarray]
) -> None:
    tracker = Tracker()
    items = match_frames(session, frames(moving[:4]), against="anchor")
    assert [tracker.update(item).lengths.max() for item in items] == [1, 2, 1, 1]


def made(ids: list[int], lengths: list[int]) -> Tracks:
    positions = np.stack((np.array(ids, np.float32) + 0.25, -np.ones(len(ids), np.float32)), 1)
    return Tracks(
        ids=np.array(ids, np.int64),
        lengths=np.array(lengths, np.int64),
        positions=positions,
        trails=positions[:, None],
    )


# Track 0 has four frames, 1 two, 2 three, 3 one, 4 three (at the end), 5 two (at the end).
RUN = [
    made([0, 1], [1, 1]),
    made([0, 1, 2], [2, 2, 1]),
    made([2, 0], [2, 3]),
    made([0, 2, 3, 4], [4, 3, 1, 1]),
    made([4, 5], [2, 1]),
    made([4, 5], [3, 2]),
]


def expected(min_length: int) -> list[tuple[int, int]]:
    long = {0: 4, 1: 2, 2: 3, 3: 1, 4: 3, 5: 2}
    return [
        (10 * frame, int(track))
        for frame, tracks in enumerate(RUN)
        for track in tracks.ids
        if long[int(track)] >= min_length
    ]


@pytest.mark.parametrize("min_length", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_long_tracks_are_written_and_short_ones_not(
    min_length: int, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / "new" / f"tracks.{suffix}"
    with TrackWriter(path, min_length) as writer:
        for i, tracks in enumerate(RUN):
            writer.add(10 * i, tracks)
        assert not path.exists()
    if suffix == "npz":
        with np.load(path) as arrays:
            columns = {name: arrays[name] for name in arrays}
        assert {name: column.dtype.str for name, column in columns.items()} == {
            "frame": "<i4",
            "track": "<i8",
            "x": "<f4",
            "y": "<f4",
        }
        rows = np.stack([columns[name].astype(float) for name in ("frame", "track", "x", "y")], 1)
    else:
        header, *lines = path.read_text().splitlines()
        assert header == "frame,track,x,y"
        rows = np.array([line.split(",") for line in lines], float).reshape(-1, 4)
    assert [(int(frame), int(track)) for frame, track in rows[:, :2]] == expected(min_length)
    np.testing.assert_allclose(rows[:, 2], rows[:, 1] + 0.25)
    np.testing.assert_allclose(rows[:, 3], -1)
    assert writer.num_rows == len(rows)
    assert writer.num_tracks == len(set(rows[:, 1]))
    assert [path.name for path in path.parent.iterdir()] == [path.name]


def test_many_frames_take_no_memory(tmp_path: Path) -> None:
    """What is held back is bounded by the shortest length, however long the run."""
    with TrackWriter(tmp_path / "tracks.npz", 3) as writer:
        for i in range(3000):
            start = i // 10 * 10  # ten frames each
            ids = np.arange(start * 20, start * 20 + 200)
            tracks = made([0], [1])
            tracks = dataclasses.replace(
                tracks,
                ids=ids,
                lengths=np.full(200, i - start + 1),
                positions=np.zeros((200, 2), np.float32),
            )
            writer.add(i, tracks)
            assert len(writer._pending) < 3
            assert len(writer._long) <= 400
    with np.load(tmp_path / "tracks.npz") as arrays:
        assert arrays["frame"].shape == (600_000,)
        assert np.all(np.diff(arrays["frame"]) >= 0)
    assert (tmp_path / "tracks.npz").stat().st_size < 1_500_000


def test_tracks_are_kept_when_the_run_fails(tmp_path: Path) -> None:
    path = tmp_path / "tracks.csv"
    with pytest.raises(KeyError), TrackWriter(path, 2) as writer:
        for i, tracks in enumerate(RUN[:3]):
            writer.add(i, tracks)
        raise KeyError
    assert len(path.read_text().splitlines()) == 1 + 7
    writer.close()


def test_without_frames_no_tracks_are_written(tmp_path: Path) -> None:
    with TrackWriter(tmp_path / "tracks.npz"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_tracks_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.npz or \.csv"):
        TrackWriter(tmp_path / "tracks.txt")
    with pytest.raises(UsageError, match="`min_track_length`"):
        TrackWriter(tmp_path / "tracks.npz", 0)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    for path in (tmp_path / "file" / "tracks.npz", tmp_path / "folder.npz"):
        with pytest.raises(OutputError, match="cannot be written"):
            TrackWriter(path)


def test_a_source_can_be_given_as_it_is(
    session: Session, moving: list[np.ndarray], tmp_path: Path
) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), moving[i])
    with open_source(tmp_path) as source:
        items = list(match_frames(session, source))
    assert [item.frame.name for item in items] == ["0.png", "1.png", "2.png"]
    assert all(item.milliseconds["read"] > 0 for item in items)
