"""Frame after frame: each is extracted once and matched with one whose features were kept."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from featherglue.errors import ImageError, UsageError
from featherglue.io.image import Image
from featherglue.machine import cores
from featherglue.session import Session
from featherglue.types import Features, Matches, MatchResult
from featherglue.video.frames import Frame, FrameSource
from featherglue.video.lookahead import ahead as in_advance

Against = Literal["previous", "anchor"]
# By so many frames it is seen whether to look ahead, after so many that are not timed. It makes
# each frame late, so it must take clearly less.
_TRIED, _WARM, _CLEARLY = 9, 3, 0.97
STAGES = ("read", "extract", "match", "refine", "total")


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameMatches:
    """A frame and its matches.

    Attributes:
        frame: the frame.
        result: its matches; image 1 is the frame, image 0 the one that it was matched with. On a
            frame that had nothing before it, the frame stands on both sides, without matches.
        against: the number of the frame that it was matched with; None for a reference picture
            and where there was nothing.
        dropped: frames of a live source that were missed so far.
        milliseconds: "read", "extract", "match", "refine" and "total", from the frame to its
            matches: their sum, and the wait for the frame before where one is extracted ahead.
    """

    frame: Frame
    result: MatchResult
    against: int | None
    dropped: int
    milliseconds: dict[str, float]

    @property
    def features(self) -> Features:
        """Of the frame."""
        return self.result.features1

    @property
    def matched(self) -> bool:
        """Whether there was anything to match the frame with."""
        return self.result.features0 is not self.result.features1

    @property
    def matches(self) -> Matches:
        """With the previous frame, the anchor or the reference picture."""
        return self.result.matches


@dataclass(frozen=True)
class _Extracted:
    frame: Frame
    features: Features
    begun: float  # of time.perf_counter
    milliseconds: float  # of work since then


class FrameMatcher:
    """Matches frames with the previous one, with an anchor, or with a reference picture.

    Args:
        session: extracts and matches; may be replaced between two frames, for other thresholds.
        against: "previous", or "anchor": the first frame with keypoints, until `anchor` chooses
            another one.
        reference: a picture to match every frame with; `against` then does not matter.
        follow: start from where refinement put a match, not from where the detector found the
            keypoint, so that a chain of matches stays on one point. For tracks; only with
            "previous".

    Attributes:
        session: see above.
        ahead: whether the next frame is extracted while one is used, at present.

    Raises:
        UsageError: `follow` with anything but the previous frame, or an unknown `against`.
        ImageError: the reference picture cannot be read, or has no keypoints.
    """

    def __init__(
        self,
        session: Session,
        *,
        against: Against = "previous",
        reference: Image | None = None,
        follow: bool = False,
    ) -> None:
        if against not in ("previous", "anchor"):
            raise UsageError(f"against is 'previous' or 'anchor', not {against!r}")
        if follow and (against != "previous" or reference is not None):
            raise UsageError("tracks need matches with the previous frame, not with a fixed one")
        self.session = session
        self.ahead = False
        self._fixed = against == "anchor" or reference is not None
        self._follow = follow
        self._kept: Features | None = None
        self._kept_number: int | None = None
        self._newest: tuple[Features, int] | None = None
        if reference is not None:
            self._kept = session.extract(reference)
            if not len(self._kept):
                raise ImageError(
                    "the reference image has no keypoints; "
                    "use another image or a lower `keypoint_threshold`"
                )

    def anchor(self) -> None:
        """Match from now on with the frame that came last, or the next one that has keypoints.

        Raises:
            UsageError: tracks are followed.
        """
        if self._follow:
            raise UsageError("tracks need matches with the previous frame; no anchor while they go")
        self._fixed = True
        self._kept = self._kept_number = None
        if self._newest is not None and len(self._newest[0]):
            self._kept, self._kept_number = self._newest

    def process(self, frame: Frame, dropped: int = 0) -> FrameMatches:
        """Extract a frame and match it. A frame without keypoints has no matches.

        Raises:
            ImageError: a frame that is too large.
        """
        return self._match(self._extract(frame), dropped)

    def _extract(self, frame: Frame) -> _Extracted:
        return self._begin(frame)()

    def _begin(self, frame: Frame) -> Callable[[], _Extracted]:
        start = time.perf_counter()
        session = self.session
        raw = session.run_extractor(frame.image)
        network = time.perf_counter() - start

        def rest() -> _Extracted:
            again = time.perf_counter()
            features = session.decode(raw)
            spent = network + time.perf_counter() - again
            return _Extracted(frame, features, start, spent * 1e3)

        return rest

    def _match(self, extracted: _Extracted, dropped: int) -> FrameMatches:
        frame, features = extracted.frame, extracted.features
        start = time.perf_counter()
        against, kept = self._kept_number, self._kept
        result = _unmatched(features) if kept is None else self.session.match(kept, features)
        refine = result.milliseconds.get("refine", 0.0)
        spent = {
            "read": frame.read_ms,
            "extract": extracted.milliseconds,
            "match": (time.perf_counter() - start) * 1e3 - refine,
            "refine": refine,
            "total": frame.read_ms + (time.perf_counter() - extracted.begun) * 1e3,
        }
        if self._follow and kept is not None:
            features = _moved(features, result.matches)
            result = dataclasses.replace(result, features1=features)
        self._newest = features, frame.number
        if not self._fixed or (kept is None and len(features)):
            self._kept, self._kept_number = self._newest
        return FrameMatches(
            frame=frame, result=result, against=against, dropped=dropped, milliseconds=spent
        )

    def run(
        self,
        source: FrameSource | Iterable[Frame],
        *,
        ahead: bool | None = False,
        limit: int | None = None,
    ) -> Iterator[FrameMatches]:
        """Process the frames of a source until it is stopped, or `limit`; see `match_frames`.
        With None for `ahead` the session may be another one afterwards, on fewer threads."""
        wanted = islice(source, limit)
        known = source if isinstance(source, FrameSource) else None
        if ahead is None:
            ahead = False if known and known.live else (yield from self._try_both(wanted, known))
        if known is None or not known.stopping:
            yield from self._run(wanted, known, ahead)

    def _try_both(
        self, wanted: Iterator[Frame], source: FrameSource | None
    ) -> Generator[FrameMatches, None, bool]:
        """Process some frames one after the other, then some ahead on half of the threads. Returns
        whether ahead was clearly faster; the session has as many threads as that needs."""
        whole = self.session
        half = (whole.threads or cores()) // 2
        own = whole.runtime is not None and whole.artifact is None  # networks that were not loaded
        if half == 0 or own or whole.runtime == "torch":  # whose threads are those of the process
            return False
        one_by_one = yield from self._timed(wanted, source, False)
        if one_by_one is None:
            return False
        whole = self.session  # with the thresholds of now
        self.session = whole.with_threads(half)
        early = yield from self._timed(wanted, source, True)
        if early is None or early < _CLEARLY * one_by_one:
            return True
        now = self.session.processing
        self.session = whole.with_settings(
            keypoint_threshold=now.keypoint_threshold,
            high_keypoint_threshold=now.high_keypoint_threshold,
            match_threshold=now.match_threshold,
        )
        return False

    def _timed(
        self, wanted: Iterator[Frame], source: FrameSource | None, ahead: bool
    ) -> Generator[FrameMatches, None, float | None]:
        """Process frames until some with matches have been timed. Returns how long one took, its
        use included: the mean without the least and the largest; None where the frames ended."""
        spent: list[float] = []
        warm, before = 0, 0.0

        def some() -> Iterator[Frame]:
            for frame in wanted:
                yield frame
                if len(spent) >= _TRIED:
                    return

        with closing(self._run(some(), source, ahead)) as items:
            for item in items:
                now = time.perf_counter()
                if len(item.matches):
                    warm += 1
                    if warm > _WARM:
                        spent.append(now - before)
                before = now
                yield item
        if len(spent) < _TRIED or (source is not None and source.stopping):
            return None
        return statistics.mean(sorted(spent)[1:-1])

    def _run(
        self, frames: Iterator[Frame], source: FrameSource | None, ahead: bool
    ) -> Generator[FrameMatches, None, None]:
        extracted = in_advance(frames, self._begin) if ahead else (self._extract(f) for f in frames)
        with closing(extracted):  # so that no thread reads on from a source that is being closed
            for one in extracted:
                self.ahead = ahead
                yield self._match(one, source.dropped if source else 0)
                if source is not None and source.stopping:
                    return


def match_frames(
    session: Session,
    source: FrameSource | Iterable[Frame],
    *,
    against: Against = "previous",
    reference: Image | None = None,
    follow: bool = False,
    ahead: bool | None = False,
) -> Iterator[FrameMatches]:
    """Match the frames of a source one after the other; see `FrameMatcher` for the arguments.

    Args:
        ahead: read and extract the next frame in a thread of its own while this one is matched
            and used: often more frames a second on two cores and more, each of them later by a
            half or more. A session on half of the cores' threads gains most. None: where that is
            clearly faster in the first frames with matches, tried with networks on half of the
            processors, which stay so; not from a live source, nor in PyTorch. What is found does
            not depend on it.

    Yields:
        one `FrameMatches` a frame, as soon as it is there.

    Raises:
        SourceError: the source gave no frame at all.
        ImageError: the reference picture or a frame cannot be used.
        UsageError: arguments that contradict each other.
    """
    matcher = FrameMatcher(session, against=against, reference=reference, follow=follow)
    return matcher.run(source, ahead=ahead)


def _unmatched(features: Features) -> MatchResult:
    nothing = np.zeros((0, 2), np.float32)
    matches = Matches(
        indices=np.zeros((0, 2), np.int64),
        scores=np.zeros(0, np.float32),
        points0=nothing,
        points1=nothing,
        refined=np.zeros(0, np.bool_),
    )
    return MatchResult(features0=features, features1=features, matches=matches, milliseconds={})


def _moved(features: Features, matches: Matches) -> Features:
    """The features with matched keypoints where refinement put them."""
    keypoints = features.keypoints.copy()
    keypoints[matches.indices[:, 1]] = matches.points1
    return dataclasses.replace(features, keypoints=keypoints)
