"""Write docs/benchmarks.md from the results of peers.py.

python benchmarks/tables.py results/ docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherglue.evaluation import markdown_table
from featherglue.io.markdown import wrap_paragraphs

VAL = (
    "128 photographs of COCO val2017 at 640×480 and their copies under random homographies: with "
    "photometric change of the second image, and without."
)
REAL = "160 pairs of four scenes, from easy to hard overlap, poses from COLMAP."


@dataclass(frozen=True, kw_only=True)
class Section:
    """A question and its tables, one for each suite.

    Attributes:
        title: the question.
        text: what is measured.
        metrics: metrics of the tables; a metric that no result has is left out.
        suites: caption of the table of each suite; "" without a caption.
    """

    title: str
    text: str
    metrics: tuple[str, ...]
    suites: Mapping[str, str]


_HOMOGRAPHIES = {
    "val": "With photometric change:",
    "val-no-photometric": "Without photometric change:",
}
SECTIONS = (
    Section(
        title="How accurate are homographies?",
        text=f"{VAL} AUC of the mean corner error in px, by RANSAC without and with local "
        "optimization (*optimized*).",
        metrics=("auc", "auc_lo"),
        suites=_HOMOGRAPHIES,
    ),
    Section(
        title="How accurate are poses?",
        text=f"{REAL} AUC of the larger angle of rotation and translation in degrees, by RANSAC "
        "without and with local optimization (*optimized*).",
        metrics=("auc", "auc_lo"),
        suites={"real": ""},
    ),
    Section(
        title="How many matches are correct?",
        text="Precision and recall in percent, the mean number of matches, and the number of "
        "pairs without an estimate. The recall of the real pairs is unknown without depth.",
        metrics=("precision", "recall", "matches", "failures"),
        suites={
            "val": "Homographies, with photometric change:",
            "val-no-photometric": "Homographies, without photometric change:",
            "real": "Real pairs:",
        },
    ),
    Section(
        title="How much depends on the estimator?",
        text="AUC of the mean corner error in px by MAGSAC++ and by a weighted direct linear "
        "transform of all matches (*DLT*), which rejects no outliers.",
        metrics=("auc_magsac", "auc_dlt"),
        suites=_HOMOGRAPHIES,
    ),
)


def render(folder: Path) -> str:
    """The page as Markdown.

    Args:
        folder: output folder of peers.py with the results of all suites.

    Raises:
        FileNotFoundError: a result is missing.
    """
    speed = json.loads((folder / "speed.json").read_text())
    command = speed["command"]
    names = [row["label"] for row in speed["rows"]]
    parts = [
        "# Benchmarks\n",
        "One command measures and writes everything on this page:\n",
        f"```bash\n{command} --docs docs/benchmarks.md\n```\n",
        f"{speed['rows'][0]['max_keypoints']} keypoints unless stated otherwise. A pair that fails "
        "has an infinite error, and precision and recall 0; no pair is left out. "
        "[Metrics](reference/metrics.md) defines the figures.\n",
        "SIFT is OpenCV's, with RootSIFT and a ratio test at 0.85. SIFT, ORB and XFeat are matched "
        "by mutual nearest neighbors. The matches of our models, and those called *refined*, have "
        "subpixel refinement. Our models use consensus and [guided "
        "matching](explanation/matching.md#guided-matching), as they are shipped, and "
        '`search="off"`; [the search](how-to/search.md) is measured separately.\n',
    ]
    for section in SECTIONS:
        parts += _section(section, folder, names, command)
    parts += _speed_section(speed, command)
    return wrap_paragraphs("\n".join(parts))


def _section(section: Section, folder: Path, names: Sequence[str], command: str) -> list[str]:
    parts = [f"## {section.title}\n", f"{section.text}\n"]
    parts.append(f"```bash\n{command} --suites {' '.join(section.suites)}\n```\n")
    for suite, caption in section.suites.items():
        lines = []
        for name in names:
            result = json.loads((folder / f"{suite}-{name.replace(' ', '-')}.json").read_text())
            summary = {key: result[key] for key in section.metrics if key in result}
            if suite == "real":  # no true correspondences without depth
                summary.pop("recall", None)
            lines.append((name, summary))
        if caption:
            parts.append(f"{caption}\n")
        parts.append(f"{markdown_table(lines)}\n")
    return parts


def _speed_section(speed: dict[str, Any], command: str) -> list[str]:
    machine = speed["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return [
        "## How fast is a frame?\n",
        "Features of a 640×480 frame and its matches with the previous frame, whose features are "
        "kept, as in a video: without guided matching. "
        f"Medians of {speed['repetitions']} repetitions. All contenders take turns frame by "
        "frame, so that each finds the caches filled by the others and is slower than in a "
        "[video of its own](experiments/speed.md).\n",
        f"```bash\n{command} --suites speed\n```\n",
        f"{speed['threads']} threads, one for NumPy's products. {machine['processor']}, "
        f"{machine['cores']} cores, {', '.join(machine['flags'])}; {versions}.\n",
        _speed_table(speed["rows"]),
    ]


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
    options.page.write_text(render(options.results))


if __name__ == "__main__":
    main()
