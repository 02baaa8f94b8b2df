"""The options of `featherglue video`, and which of them exclude each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.errors import UsageError

MIN_TRACK_LENGTH = 3

Source = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Index of a camera, video file, rtsp:// or http:// address, folder, glob, or images.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        help="Write what is shown: a video (.mp4, .avi, .mkv, .mov) or a folder of pictures.",
    ),
]
Anchor = Annotated[
    bool, typer.Option("--anchor", help="Match with the first frame instead of the previous one.")
]
Reference = Annotated[
    Path | None,
    typer.Option("--reference", metavar="IMAGE", help="Match every frame with this image."),
]
Track = Annotated[bool, typer.Option("--track", help="Track points over frames and write them.")]
Tracks = Annotated[
    Path | None,
    typer.Option(
        "--tracks", metavar="FILE", help="File of the tracks, .npz or .csv; implies --track."
    ),
]
MinTrackLength = Annotated[
    int | None,
    typer.Option(
        "--min-track-length",
        min=1,
        metavar="N",
        help=f"Minimum number of frames of a track; {MIN_TRACK_LENGTH} by default.",
    ),
]
Display = Annotated[
    bool | None,
    typer.Option("--display/--no-display", help="Open a window; by default if one is possible."),
]
ShowKeypoints = Annotated[
    bool, typer.Option("--show-keypoints", help="Show keypoints without a match too.")
]
Skip = Annotated[
    int,
    typer.Option("--skip", min=1, metavar="N", help="Take every N-th frame of a file or folder."),
]
MaxFrames = Annotated[
    int | None, typer.Option("--max-frames", min=1, metavar="N", help="Maximum number of frames.")
]
CameraSize = Annotated[
    tuple[int, int] | None,
    typer.Option("--camera-size", metavar="W H", help="Image size to request from a camera."),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--fps",
        metavar="RATE",
        help="Frames per second of an image sequence, of the output, or of a camera.",
    ),
]
Lookahead = Annotated[
    bool | None,
    typer.Option(
        "--lookahead/--no-lookahead",
        help="Extract the next frame while this one is matched: more frames per second, more "
        "latency. By default whichever is faster for files, and off for live sources.",
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", help="Seconds to wait for a camera, an address or a pipe.")
]


def check_options(
    anchor: bool, reference: Path | None, track: bool, min_track_length: int | None
) -> None:
    """Raise UsageError if options exclude each other."""
    if anchor and reference is not None:
        raise UsageError("--anchor and --reference exclude each other")
    if track and (anchor or reference is not None):
        raise UsageError(
            "--track needs matches with the previous frame: remove --anchor and --reference"
        )
    if min_track_length is not None and not track:
        raise UsageError("--min-track-length needs --track")


def check_lookahead(lookahead: bool | None, num_threads: int) -> None:
    """Raise UsageError if lookahead is requested on a single thread."""
    if lookahead and num_threads < 2:
        raise UsageError(f"--lookahead needs at least 2 threads, not {num_threads}")
