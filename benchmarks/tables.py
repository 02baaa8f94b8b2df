"""Write docs/benchmarks.md from the results of peers.py.

python benchmarks/tables.py results/ docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from featherglue.evaluation import markdown_table

SUITES = {
    "val": (
        "Homographies, with photometric change",
        "128 photographs of COCO val2017 at 640×480 and their copies under random homographies, "
        "with photometric change of the second image. AUC of the mean corner error in px by "
        "RANSAC, by RANSAC with local optimization (*optimized*), by MAGSAC++ and by a weighted "
        "direct linear transform (*DLT*).",
    ),
    "val-no-light": ("The same without photometric change", ""),
    "real": (
        "Real photographs, relative pose",
        "160 pairs of four scenes, from easy to hard overlap, poses from COLMAP. AUC of the "
        "larger angle of rotation and translation in degrees, by RANSAC, without and with local "
        "optimization (*optimized*).",
    ),
}
ESTIMATES = ("auc", "auc_lo", "auc_magsac", "auc_dlt")
SHOWN = (*ESTIMATES, "precision", "recall", "matches", "pairs", "failures")


def render(folder: Path, command: str) -> str:
    """The page as Markdown.

    Args:
        folder: output folder of peers.py.
        command: command that the page shows.
    """
    speed = json.loads((folder / "speed.json").read_text())
    machine = speed["machine"]
    names = [row["label"] for row in speed["rows"]]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        "# Benchmarks\n",
        "One command measures and writes everything on this page:\n",
        f"```bash\n{command}\n```\n",
        f"{speed['rows'][0]['max_keypoints']} keypoints unless stated otherwise. A pair that fails "
        "has an infinite error, and precision and recall 0; no pair is left out. "
        "[Metrics](reference/metrics.md) defines the figures.\n",
        "SIFT is OpenCV's, with RootSIFT and a ratio test at 0.85. SIFT, ORB and XFeat are matched "
        "by mutual nearest neighbors. The matches of our models, and those called *refined*, have "
        'subpixel refinement. Our models use consensus, as they are shipped, and `search="off"`; '
        "[the search](how-to/search.md) is measured separately.\n",
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
        "Features of a 640×480 frame and its matches with the previous frame, whose features are "
        f"kept. Medians of {speed['repetitions']} repetitions. All contenders take turns frame by "
        "frame, so that each finds the caches filled by the others and is slower than in a "
        "[video of its own](experiments/speed.md).\n"
    )
    parts.append(
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


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="output folder of peers.py")
    parser.add_argument("page", type=Path, help="Markdown file to write")
    options = parser.parse_args(arguments)
    command = f"python benchmarks/tables.py {options.results} {options.page}"
    options.page.write_text(render(options.results, command))


if __name__ == "__main__":
    main()
