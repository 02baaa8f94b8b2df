"""Match the sample pairs with the Python package, for the tests of the page.

    python web/scripts/reference_matches.py web/public/samples web/build/reference.json

The session runs without the two steps that are not in the graphs, consensus and refinement.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2

import featherglue as fg

NUM_KEYPOINTS = 512


def main() -> None:
    """Write the matches of each pair and model: x0, y0, x1, y1, confidence."""
    samples, output = map(Path, sys.argv[1:])
    names = sorted({path.stem[:-1] for path in samples.glob("*.jpg")})
    found = {}
    for model in ("fast", "balanced"):
        session = fg.load(
            model,
            max_keypoints=NUM_KEYPOINTS,
            resize=-1,
            consensus=None,
            refine=False,
            search="off",
            threads=1,
        )
        found[model] = {name: matches(session, samples, name) for name in names}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found), encoding="utf-8")


def matches(session: fg.Session, samples: Path, name: str) -> list[list[float]]:
    """Matches of a sample pair, from its colors as a browser reads them."""
    images = [
        cv2.cvtColor(cv2.imread(str(samples / f"{name}{i}.jpg")), cv2.COLOR_BGR2RGB)
        for i in range(2)
    ]
    result = session(*images).matches
    columns = zip(result.points0, result.points1, result.scores, strict=True)
    return [[*map(float, (*p0, *p1, score))] for p0, p1, score in columns]


if __name__ == "__main__":
    main()
