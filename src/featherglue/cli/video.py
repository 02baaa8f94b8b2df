"""`featherglue video`: frames of a camera, video, stream or folder, matched as they come."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from featherglue.cli import video_options as given
from featherglue.cli.common import JsonFile, Model, error_console
from featherglue.cli.session_options import with_session_options
from featherglue.cli.video_loop import VideoLoop, stop_on_signals
from featherglue.cli.video_report import VideoReport
from featherglue.errors import UsageError
from featherglue.machine import num_cores
from featherglue.options import Default, SessionOptions
from featherglue.session import load
from featherglue.video.frame_matching import FrameMatcher
from featherglue.video.frames import FrameSource
from featherglue.video.sources import open_source
from featherglue.video.track_writer import TrackWriter
from featherglue.video.window import Controls, Window, why_no_window
from featherglue.video.writer import LIVE_RATE, FrameWriter, PictureFolder, open_writer

T = TypeVar("T")

INTERRUPTED = 130  # exit code
DEFAULT_VIDEO_RATE = 30.0  # frames per second of a video that does not state its rate


@with_session_options
def video(
    source: given.Source,
    output: given.Output = None,
    anchor: given.Anchor = False,
    reference: given.Reference = None,
    track: given.Track = False,
    tracks: given.Tracks = None,
    min_track_length: given.MinTrackLength = None,
    display: given.Display = None,
    show_keypoints: given.ShowKeypoints = False,
    skip: given.Skip = 1,
    max_frames: given.MaxFrames = None,
    camera_size: given.CameraSize = None,
    rate: given.Rate = None,
    lookahead: given.Lookahead = None,
    timeout: given.Timeout = 10.0,
    model: Model = "fast",
    json_file: JsonFile = None,
    *,
    options: SessionOptions,
) -> int:
    """Match the frames of a camera, video, stream or folder as they come.

    Keys in the window, as in SuperGlue's demo: n new anchor, e/r keypoint threshold, d/f match
    threshold, k keypoints, q quit. --json writes one line per frame and a summary.
    """
    track = track or tracks is not None
    given.check_options(anchor, reference, track, min_track_length)
    given.check_lookahead(lookahead, options.threads or num_cores())
    no_window = _why_no_window(display)
    names = source[0] if len(source) == 1 else [Path(name) for name in source]
    length = min_track_length or given.MIN_TRACK_LENGTH
    with VideoReport(json_file, show_progress=bool(no_window)) as report:
        with ExitStack() as stack:
            frames = stack.enter_context(
                open_source(names, rate=rate, skip=skip, camera_size=camera_size, timeout=timeout)
            )
            signals = stack.enter_context(stop_on_signals(frames))
            matcher = FrameMatcher(
                load(model, options),
                against="anchor" if anchor else "previous",
                reference=reference,
                tracking=track,
                search=_given(options.search),
                guided_matching=_given(options.guided_matching),
            )
            writer = stack.enter_context(_writer(output, frames, skip, rate)) if output else None
            path = tracks or _tracks_path(output, writer)
            loop = VideoLoop(
                controls=Controls(matcher, keypoints=show_keypoints),
                report=report,
                writer=writer,
                window=_window(stack, frames.name) if not no_window else None,
                track_writer=stack.enter_context(TrackWriter(path, length)) if track else None,
                min_track_length=length,
            )
            if no_window and display is None and output is None and json_file is None:
                error_console.print(f"no window: {no_window}; write the pictures to a file with -o")
            report.num_frames = _num_frames(frames, max_frames)
            loop.run(frames, max_frames, lookahead)
            interrupted = bool(signals)
        report.finish(loop.times, frames, loop.outputs(), interrupted)
    if interrupted:
        return INTERRUPTED
    return 1 if frames.problems else 0


def _given(value: T | Default) -> T | None:
    """The value of an option, None if it was not given."""
    return None if isinstance(value, Default) else value


def _why_no_window(display: bool | None) -> str:
    """The reason why no window opens, or ""."""
    reason = "--no-display" if display is False else why_no_window()
    if display and reason:
        raise UsageError(f"--display: {reason}")
    return reason


def _window(stack: ExitStack, name: str) -> Window:
    window = Window(f"featherglue {name}")
    stack.callback(window.close)
    return window


def _writer(output: Path, source: FrameSource, skip: int, rate: float | None) -> FrameWriter:
    if source.live:
        return open_writer(output, rate=rate or LIVE_RATE, real_time=True)
    return open_writer(output, rate=(source.rate or DEFAULT_VIDEO_RATE) / skip)


def _tracks_path(output: Path | None, writer: FrameWriter | None) -> Path:
    if output is None:
        return Path("tracks.npz")
    if isinstance(writer, PictureFolder):
        return output / "tracks.npz"
    return output.with_name(f"{output.stem}_tracks.npz")


def _num_frames(source: FrameSource, max_frames: int | None) -> int | None:
    known = [number for number in (source.num_frames, max_frames) if number is not None]
    return min(known, default=None)
