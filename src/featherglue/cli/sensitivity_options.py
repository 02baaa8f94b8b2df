"""Options of the command `sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

MethodName = Literal["prune", "codebook", "linear"]
MetricName = Literal["mean", "auc5", "auc10", "auc25", "precision", "recall"]

Images = Annotated[Path, typer.Option("--images", metavar="DIR", help="Folder of the images.")]
Output = Annotated[
    Path,
    typer.Option(
        "-o", "--output", metavar="DIR", help="Folder of the scan. A stopped scan continues."
    ),
]
PairFile = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        metavar="FILE",
        help="Lines `image h00 … h22` for 640×480; random homographies without it.",
    ),
]
NumPairs = Annotated[
    int, typer.Option("--num-pairs", min=1, help="Number of pairs, drawn at random.")
]
Method = Annotated[
    MethodName,
    typer.Option("--method", help="Compression method of the scan; codebook is k-means."),
]
Ratios = Annotated[
    str,
    typer.Option(
        "--ratios",
        metavar="R[,R…]",
        help="Pruning ratios (default: 0.1 to 0.9 and 0.95).",
        show_default=False,
    ),
]
Bits = Annotated[
    str,
    typer.Option(
        "--bits",
        metavar="N[,N…]",
        help="Bits of a weight (default: codebook 2 to 8, linear 4 to 8).",
        show_default=False,
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", help="Stop after this time; the same command continues."),
]
Metric = Annotated[
    MetricName, typer.Option("--metric", help="Score that is drawn and that orders the layers.")
]
Histograms = Annotated[
    list[str] | None,
    typer.Option(
        "--histograms",
        metavar="GLOB",
        help="Also draw the weight distributions of these layers. Can be repeated.",
    ),
]
Refine = Annotated[
    bool, typer.Option("--refine", help="Refine matches to subpixel accuracy; slower.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the drawn pairs.")]
