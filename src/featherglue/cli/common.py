"""Options and printing that the commands share."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import cv2
import typer
from rich.console import Console

from featherglue.errors import UsageError

console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)

Model = Annotated[str, typer.Option("--model", help="A shipped model's name, or a folder.")]
RuntimeOption = Annotated[
    str, typer.Option("--runtime", help="auto, onnxruntime, openvino or torch.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads that the networks may use.")
]
FeaturesOption = Annotated[str, typer.Option("--features", help="superpoint, sift or orb.")]
MatcherOption = Annotated[
    str, typer.Option("--matcher", help="superglue, or nn: mutual nearest neighbours.")
]
Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="W H | MAX | -1",
        help="Work at this size, at this longest side, or at the images' own (-1).",
    ),
]
MaxKeypoints = Annotated[
    int | None, typer.Option("--max-keypoints", help="Keep the strongest; -1 keeps all.")
]
KeypointThreshold = Annotated[
    float | None, typer.Option("--keypoint-threshold", help="Lowest score of a keypoint.")
]
NmsRadius = Annotated[
    int | None, typer.Option("--nms-radius", help="Pixels between keypoints, about.")
]
SinkhornIterations = Annotated[
    int | None, typer.Option("--sinkhorn-iterations", help="Of the optimal matching layer.")
]
MatchThreshold = Annotated[
    float | None, typer.Option("--match-threshold", help="Lowest confidence of a match.")
]
Consensus = Annotated[
    float | None,
    typer.Option(
        "--consensus",
        help="Drop matches below this confidence that those around contradict; 0 drops none.",
    ),
]
NoRefine = Annotated[
    bool, typer.Option("--no-refine", help="Leave matches where the detector put them.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def join_sizes(arguments: list[str]) -> list[str]:
    """`--resize 640 480` as one argument, `--resize=640,480`, as the parser needs it."""
    joined: list[str] = []
    i = 0
    while i < len(arguments):
        if arguments[i] == "--":
            return joined + arguments[i:]
        if arguments[i] in ("--resize", "--image-size"):
            values: list[str] = []
            while i + 1 < len(arguments) and len(values) < 2 and _is_integer(arguments[i + 1]):
                values.append(arguments[i + 1])
                i += 1
            name = arguments[i - len(values)]
            joined.append(f"{name}={','.join(values)}" if values else name)
        else:
            joined.append(arguments[i])
        i += 1
    return joined


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdigit()


def parse_resize(text: str | None) -> tuple[int, ...] | None:
    """The value of --resize: "640,480", "640x480", "1024" or "-1"."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise UsageError(f"--resize takes W H, one longest side, or -1, not {text!r}") from None


def limit_threads(threads: int | None) -> None:
    """Apply --threads to OpenCV too, whose threads belong to the process."""
    if threads is not None:
        cv2.setNumThreads(threads)


def print_json(data: Any) -> None:
    """Plain values on standard output."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()
