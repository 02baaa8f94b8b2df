"""Matching of consecutive frames: each frame is extracted once and matched with an earlier one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from featherglue.errors import ImageError, UsageError
from featherglue.io.image import Image
from featherglue.options import SearchMode
from featherglue.session import Session
from featherglue.types import Features, Matches, MatchResult
from featherglue.video.arrays import as_source
from featherglue.video.capture import Capture
from featherglue.video.frames import Frame, FrameSource
from featherglue.video.held_search import HeldSearch
from featherglue.video.lookahead import lookahead as look_ahead
from featherglue.video.lookahead_choice import choose_lookahead

Against = Literal["previous", "anchor"]
STAGES = ("read", "extract", "match", "refine", "total")


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameMatches:
    """A frame and its matches.

    Attributes:
        frame: the frame.
        result: its matches; image 1 is the frame, image 0 its counterpart. Without a
            counterpart both images are the frame, and there are no matches.
        against: number of the frame that it was matched with; None for a reference image and
            without a counterpart.
        dropped: number of frames of a live source that were missed so far.
        milliseconds: time of "read", "extract", "match" and "refine", and "total", the latency from
            reading to the matches. With lookahead the total includes waiting for the frame before.
    """

    frame: Frame
    result: MatchResult
    against: int | None
    dropped: int
    milliseconds: dict[str, float]

    @property
    def features(self) -> Features:
        """Features of the frame."""
        return self.result.features1

    @property
    def matched(self) -> bool:
        """Whether the frame had a counterpart."""
        return self.result.features0 is not self.result.features1

    @property
    def matches(self) -> Matches:
        """Matches with the previous frame, the anchor or the reference image."""
        return self.result.matches


@dataclass(frozen=True)
class _Extracted:
    frame: Frame
    features: Features
    start: float  # on the clock of the matcher
    milliseconds: float  # of extraction


class FrameMatcher:
    """Matches frames with the previous one, with an anchor, or with a reference image.

    Args:
        session: extracts and matches. It may be replaced between two frames.
        against: "previous", or "anchor": the first frame with keypoints, until `anchor` is called.
        reference: an image to match every frame with; replaces `against`.
        tracking: continue from the refined position of a match instead of the detected keypoint,
            so that a chain of matches stays on one point. Needs matches with the previous frame.
        search: whether to search over rotation and scale. None takes the mode of the session with
            an anchor or a reference image, and "off" between consecutive frames. A view that was
            found is kept for the next frames; see `HeldSearch`.
        guided_matching: whether to complete pairs with few matches, which takes some frames half of
            their time again. None takes the setting of the session with an anchor, a reference
            image or a search, and False between consecutive frames.
        clock: returns seconds of any origin.

    Attributes:
        session: the session in use, with the mode of the search that applies.
        lookahead: whether the next frame is extracted in a thread at present.

    Raises:
        UsageError: `tracking` with an anchor, a reference or a search, or an unknown `against`.
        ImageError: the reference image cannot be read, or has no keypoints.
    """

    def __init__(
        self,
        session: Session,
        *,
        against: Against = "previous",
        reference: Image | None = None,
        tracking: bool = False,
        search: SearchMode | None = None,
        guided_matching: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if against not in ("previous", "anchor"):
            raise UsageError(f"against is 'previous' or 'anchor', not {against!r}")
        if tracking and (against != "previous" or reference is not None):
            raise UsageError(
                "`tracking` needs matches with the previous frame: remove `against` and `reference`"
            )
        fixed = against == "anchor" or reference is not None
        if search is None:
            search = session.search if fixed else "off"
        if tracking and search != "off":
            raise UsageError(
                "`search` finds keypoints of its own, which `tracking` cannot follow: remove one"
            )
        if guided_matching is None:
            guided_matching = session.processing.guided_matching and (fixed or search != "off")
        if session.processing.guided_matching != guided_matching:
            session = session.with_settings(guided_matching=guided_matching)
        self.session = session if session.search == search else session.with_search(search)
        self.clock = clock
        self.lookahead = False
        self._fixed = fixed
        self._tracking = tracking
        self._counterpart: Features | None = None
        self._counterpart_number: int | None = None
        self._newest: tuple[Features, int] | None = None
        self._held: HeldSearch | None = None
        if reference is not None:
            self._counterpart = session.extract(reference)
            if not len(self._counterpart):
                raise ImageError(
                    "the reference image has no keypoints; "
                    "use another image or a lower `keypoint_threshold`"
                )

    def anchor(self) -> None:
        """Make the newest frame the anchor, or the next frame that has keypoints.

        Raises:
            UsageError: `tracking` is on.
        """
        if self._tracking:
            raise UsageError("`tracking` needs matches with the previous frame: no anchor possible")
        self._fixed = True
        self._counterpart = self._counterpart_number = None
        if self._newest is not None and len(self._newest[0]):
            self._counterpart, self._counterpart_number = self._newest

    def process(self, frame: Frame, dropped: int = 0) -> FrameMatches:
        """Extract a frame and match it. A frame without keypoints has no matches.

        Args:
            frame: the next frame.
            dropped: number of frames that were missed so far, for the result.

        Raises:
            ImageError: the frame is too large.
        """
        return self._match(self._begin(frame)(), dropped)

    def _begin(self, frame: Frame) -> Callable[[], _Extracted]:
        """Run the network of the extractor. Returns a function that decodes its output."""
        start = self.clock()
        session = self.session
        raw = session.run_extractor(frame.image)
        network_seconds = self.clock() - start

        def finish() -> _Extracted:
            decode_start = self.clock()
            features = session.decode(raw)
            seconds = network_seconds + self.clock() - decode_start
            return _Extracted(frame, features, start, seconds * 1e3)

        return finish

    def _match(self, extracted: _Extracted, dropped: int) -> FrameMatches:
        frame, features = extracted.frame, extracted.features
        start = self.clock()
        against, counterpart = self._counterpart_number, self._counterpart
        if counterpart is None:
            result = _unmatched(features)
        else:
            result = self._match_features(counterpart, features)
        refine = sum(result.milliseconds.get(stage, 0.0) for stage in ("refine", "guided"))
        milliseconds = {
            "read": frame.read_ms,
            "extract": extracted.milliseconds,
            "match": (self.clock() - start) * 1e3 - refine,
            "refine": refine,
            "total": frame.read_ms + (self.clock() - extracted.start) * 1e3,
        }
        if self._tracking and counterpart is not None:
            features = _at_refined_points(features, result.matches)
            result = dataclasses.replace(result, features1=features)
        self._newest = features, frame.number
        if not self._fixed or (counterpart is None and len(features)):
            self._counterpart, self._counterpart_number = self._newest
        return FrameMatches(
            frame=frame, result=result, against=against, dropped=dropped, milliseconds=milliseconds
        )

    def _match_features(self, counterpart: Features, features: Features) -> MatchResult:
        if self.session.search == "off" or not self._fixed:
            return self.session.match(counterpart, features)
        if self._held is None or self._held.session is not self.session:
            self._held = HeldSearch(self.session)
        return self._held.match(counterpart, features)

    def run(
        self,
        source: FrameSource | Capture | Iterable[Any],
        *,
        lookahead: bool | None = False,
        limit: int | None = None,
    ) -> Iterator[FrameMatches]:
        """Process the frames of a source until it ends or is stopped. See `match_frames`.

        With `lookahead=None` the session may be replaced by one with fewer threads.

        Args:
            source: the frames.
            lookahead: see `match_frames`.
            limit: maximum number of frames; None for all.
        """
        opened = as_source(source)
        frames = islice(opened, limit)
        frame_source = opened if isinstance(opened, FrameSource) else None
        if lookahead is None:
            live = frame_source is not None and frame_source.live
            lookahead = not live and (yield from choose_lookahead(self, frames, frame_source))
        if frame_source is None or not frame_source.stopping:
            yield from self.process_all(frames, frame_source, lookahead)

    def process_all(
        self, frames: Iterator[Frame], source: FrameSource | None, lookahead: bool
    ) -> Generator[FrameMatches, None, None]:
        """Process frames in order until `source`, which they come from, is stopped."""
        extracted = (
            look_ahead(frames, self._begin) if lookahead else (self._begin(f)() for f in frames)
        )
        with closing(extracted):  # ends the thread before the source is closed
            for item in extracted:
                self.lookahead = lookahead
                yield self._match(item, source.num_dropped if source else 0)
                if source is not None and source.stopping:
                    return


def match_frames(
    session: Session,
    source: FrameSource | Capture | Iterable[Any],
    *,
    against: Against = "previous",
    reference: Image | None = None,
    tracking: bool = False,
    search: SearchMode | None = None,
    guided_matching: bool | None = None,
    lookahead: bool | None = False,
) -> Iterator[FrameMatches]:
    """Match the frames of a source one after the other.

    Args:
        session: extracts and matches.
        source: a source of `open_source`, frames, images (arrays (H, W) or (H, W, 3) RGB, images of
            Pillow, or paths), or a `cv2.VideoCapture`.
        against: see `FrameMatcher`.
        reference: see `FrameMatcher`.
        tracking: see `FrameMatcher`.
        search: see `FrameMatcher`.
        guided_matching: see `FrameMatcher`.
        lookahead: read and extract the next frame in a thread while this one is matched and used.
            On two cores or more this often gives more frames per second, and each frame is
            delayed by half a frame or more; a session with half of the threads gains most. None
            measures both ways on the first frames with matches and continues with the faster one;
            live sources and PyTorch then work without lookahead. The matches are the same.

    Yields:
        One `FrameMatches` per frame, as soon as it is ready.

    Raises:
        SourceError: the source has no frame.
        ImageError: the reference image or a frame cannot be used.
        UsageError: arguments that exclude each other.
    """
    matcher = FrameMatcher(
        session,
        against=against,
        reference=reference,
        tracking=tracking,
        search=search,
        guided_matching=guided_matching,
    )
    return matcher.run(source, lookahead=lookahead)


def _unmatched(features: Features) -> MatchResult:
    no_points = np.zeros((0, 2), np.float32)
    matches = Matches(
        indices=np.zeros((0, 2), np.int64),
        scores=np.zeros(0, np.float32),
        points0=no_points,
        points1=no_points,
        refined=np.zeros(0, np.bool_),
    )
    return MatchResult(features0=features, features1=features, matches=matches, milliseconds={})


def _at_refined_points(features: Features, matches: Matches) -> Features:
    """The features with matched keypoints at their refined positions."""
    keypoints = features.keypoints.copy()
    keypoints[matches.indices[:, 1]] = matches.points1
    return dataclasses.replace(features, keypoints=keypoints)
