"""docs/benchmarks.md from the results of peers.py.

python benchmarks/tables.py results/ docs/benchmarks.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from featherglue.evaluation import markdown_table

SUITES = {
    "val": (
        "Homographies, with photometric change",
        "128 photographs of COCO val2017 at 640×480 and their copies under random homographies, "
        "the light of the second changed at random. AUC of the mean corner error in px; RANSAC, "
        "the same with local optimization (*LO*), MAGSAC++ and a weighted direct linear "
        "transform.",
    ),
    "val-no-light": ("The same without photometric change", ""),
    "real": (
        "Real photographs, relative pose",
        "160 pairs of four scenes, from easy to hard overlap, poses from COLMAP. AUC of the "
        "larger angle of rotation and translation in degrees, by RANSAC, and fitted anew "
        "(*optimized*).",
    ),
}
ESTIMATES = ("auc", "auc_lo", "auc_magsac", "auc_dlt")
SHOWN = (*ESTIMATES, "precision", "recall", "matches", "pairs", "failures")


def render(folder: Path, command: str) -> str:
    """The page."""
    speed = json.loads((folder / "speed.json").read_text())
    machine = speed["machine"]
    names = [row["label"] for row in speed["rows"]]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        "# Benchmarks\n",
        "Everything on this page comes from one run of one command, which rewrites it:\n",
        f"```\n{command}\n```\n",
        f"{speed['rows'][0]['max_keypoints']} keypoints where no other number stands. A pair that "
        "fails counts with an infinite error, and precision and recall 0; nothing is dropped. "
        "SIFT is OpenCV's with RootSIFT and ratio 0.85; it, ORB and XFeat are matched by mutual "
        "nearest neighbours. *Refined* matches and our own go through `refine.py`; the others stay "
        "where the detector put them. Ours drop what those around contradict (`consensus.py`), as "
        "the models are shipped.\n",
    ]
    for key, (title, text) in SUITES.items():
        lines = []
        for name in names:
            result = json.loads((folder / f"{key}-{name.replace(' ', '-')}.json").read_text())
            summary = {k: result[k] for k in SHOWN if k in result}
            if key == "real":  # no true correspondences without depth
                summary.pop("recall", None)
            lines.append((name, summary))
        parts.append(f"## {title}\n")
        if text:
            parts.append(f"{text}\n")
        parts.append(f"{markdown_table(lines)}\n")
    parts.append("## Speed\n")
    parts.append(
        "Features of a 640×480 frame and its matches with the frame before, whose features are "
        f"kept. Medians over {speed['repetitions']} repetitions, all taking turns frame by frame: "
        "each finds the caches full of others' data and is slower than in a video of its own "
        "([performance.md](performance.md)); compare the rows. "
        f"{speed['threads']} threads, one for NumPy's products. {machine['processor']}, "
        f"{machine['cores']} cores, {', '.join(machine['flags'])}; {versions}.\n"
    )
    parts.append(_speed_table(speed["rows"]))
    return "\n".join(parts)


def _speed_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| | median ms | p95 ms | frames/s |", "|:---|---:|---:|---:|"]
    for row in rows:
        total = row["end_to_end"]
        lines.append(
            f"| {row['label']} | {total['median_ms']:.1f} | {total['p95_ms']:.1f} | "
            f"{row['frames_per_second']:.1f} |"
        )
    cold = next((row for row in rows if "cold_start_ms" in row), None)
    if cold is not None:
        lines.append(
            f"\n`{cold['label']}` from a fresh process to its first matches, without the start of "
            f"Python: {cold['cold_start_ms']:.0f} ms; peak memory "
            f"{cold['peak_bytes'] / 2**20:.0f} MiB."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    results, page = map(Path, sys.argv[1:3])
    page.write_text(render(results, f"python benchmarks/tables.py {results} {page}"))
