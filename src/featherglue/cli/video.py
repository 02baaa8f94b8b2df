"""`featherglue video`: frames of a camera, video, stream or folder, matched as they come."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.common import Json, Model, error_console
from featherglue.cli.session_options import with_session_options
from featherglue.cli.video_loop import Run, stop_on_signals
from featherglue.cli.video_report import Reporter
from featherglue.errors import UsageError
from featherglue.machine import cores
from featherglue.options import SessionOptions
from featherglue.session import load
from featherglue.video.frame_matching import FrameMatcher
from featherglue.video.frames import FrameSource
from featherglue.video.sources import open_source
from featherglue.video.timing import StageTimes
from featherglue.video.track_writer import TrackWriter
from featherglue.video.tracking import Tracker
from featherglue.video.window import Controls, Window, why_no_window
from featherglue.video.writer import LIVE_RATE, FrameWriter, PictureFolder, open_writer

INTERRUPTED = 130
MIN_TRACK_LENGTH = 3


@with_session_options
def video(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Camera index, video, rtsp:// or http:// address, folder, glob, or images.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Video (.mp4, .avi, …) or folder for what is shown."),
    ] = None,
    anchor: Annotated[
        bool, typer.Option("--anchor", help="Match with the first frame, not with the previous.")
    ] = False,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Match every frame with this picture.")
    ] = None,
    track: Annotated[
        bool, typer.Option("--track", help="Follow points over frames and write their tracks.")
    ] = False,
    tracks: Annotated[
        Path | None, typer.Option("--tracks", help="Where: .npz or .csv; means --track.")
    ] = None,
    min_track_length: Annotated[
        int | None,
        typer.Option(
            "--min-track-length", min=1, help=f"Frames of a track; {MIN_TRACK_LENGTH} by default."
        ),
    ] = None,
    display: Annotated[
        bool | None,
        typer.Option("--display/--no-display", help="A window; by default where there can be one."),
    ] = None,
    show_keypoints: Annotated[
        bool, typer.Option("--show-keypoints", help="Show those without a match too.")
    ] = False,
    skip: Annotated[
        int, typer.Option("--skip", min=1, help="Take every N-th frame of a file or folder.")
    ] = 1,
    max_frames: Annotated[
        int | None, typer.Option("--max-frames", min=1, help="Stop after so many.")
    ] = None,
    camera_size: Annotated[
        tuple[int, int] | None,
        typer.Option("--camera-size", metavar="W H", help="Ask a camera for this size."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--fps", help="Frames a second: of pictures, of the output, of a camera."),
    ] = None,
    ahead: Annotated[
        bool | None,
        typer.Option(
            "--ahead/--no-ahead",
            help="Extract the next frame while this one is matched: each is later by a half. By "
            "default where it is faster in the first frames, and not of a camera or stream.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait for a camera or an address.")
    ] = 10.0,
    model: Model = "fast",
    as_json: Json = False,
    *,
    options: SessionOptions,
) -> int:
    """Match the frames of a camera, video, stream or folder as they come.

    Keys in the window, as in SuperGlue's demo: n new anchor, e/r keypoint threshold, d/f match
    threshold, k keypoints, q quit. --json prints one line a frame and a summary.
    """
    track = track or tracks is not None
    _refuse_contradictions(anchor, reference, track, min_track_length)
    why_not = _why_no_window(display)
    for path in (output, tracks):
        _refuse_overwriting(path, source)
    named = source[0] if len(source) == 1 else [Path(name) for name in source]
    with ExitStack() as stack:
        frames = stack.enter_context(
            open_source(named, rate=rate, skip=skip, camera_size=camera_size, timeout=timeout)
        )
        signals = stack.enter_context(stop_on_signals(frames))
        if why_not and display is None and output is None and not as_json:
            error_console.print(f"no window: {why_not}; -o writes what it would show", markup=False)
        used = options.threads or cores()
        if ahead and used < 2:
            raise UsageError(f"--ahead works with two threads and more, not with {used}")
        session = load(model, options)
        matching = FrameMatcher(
            session,
            against="anchor" if anchor else "previous",
            reference=reference,
            follow=track,
        )
        writer = stack.enter_context(_writer(output, frames, skip, rate)) if output else None
        length = min_track_length or MIN_TRACK_LENGTH
        kept = tracks or _tracks_path(output, writer)
        track_writer = stack.enter_context(TrackWriter(kept, length)) if track else None
        counts = [count for count in (frames.count, max_frames) if count is not None]
        window = None if why_not else Window(f"featherglue {frames.name}")
        if window is not None:
            stack.callback(window.close)
        run = Run(
            controls=Controls(matching, keypoints=show_keypoints),
            times=StageTimes(),
            report=Reporter(
                as_json=as_json, quiet=window is not None, count=min(counts, default=None)
            ),
            writer=writer,
            window=window,
            track_writer=track_writer,
            tracker=Tracker() if track else None,
            min_length=length,
            ahead=ahead,
        )
        run.all(frames, max_frames)
        interrupted = bool(signals)
        stack.close()  # so that the summary tells of files that are complete
        run.report.finish(run.times, frames, run.outputs(), interrupted)
    if interrupted:
        return INTERRUPTED
    return 1 if frames.problems else 0


def _refuse_contradictions(
    anchor: bool, reference: Path | None, track: bool, min_track_length: int | None
) -> None:
    if anchor and reference is not None:
        raise UsageError("--anchor and --reference exclude each other")
    if track and (anchor or reference is not None):
        raise UsageError(
            "--track follows points from frame to frame; it cannot go with --anchor or --reference"
        )
    if min_track_length is not None and not track:
        raise UsageError("--min-track-length needs --track")


def _why_no_window(display: bool | None) -> str:
    """Why no window opens, or ""."""
    why = "--no-display" if display is False else why_no_window()
    if display and why:
        raise UsageError(f"--display: {why}")
    return why


def _writer(output: Path, source: FrameSource, skip: int, rate: float | None) -> FrameWriter:
    if source.live:
        return open_writer(output, rate=rate or LIVE_RATE, real_time=True)
    return open_writer(output, rate=(source.rate or 30.0) / skip)


def _tracks_path(output: Path | None, writer: FrameWriter | None) -> Path:
    if output is None:
        return Path("tracks.npz")
    if isinstance(writer, PictureFolder):
        return output / "tracks.npz"
    return output.with_name(f"{output.stem}_tracks.npz")


def _refuse_overwriting(output: Path | None, sources: list[str]) -> None:
    if output is not None and any(output.resolve() == Path(name).resolve() for name in sources):
        raise UsageError(f"{output}: is the source itself; name another file or folder")
