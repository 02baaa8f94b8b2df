"""A feature file of XFeat, in hloc's layout, for the training stage `distill-features`.

    python benchmarks/xfeat_features.py PHOTOS xfeat_640x640.onnx -o features.h5

PHOTOS is a folder of photographs; the groups of the file have their paths below it as names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
from option_types import positive
from xfeat import XFeat

from featherglue.io.image import list_images


def main() -> None:
    """Extract and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("xfeat", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--max-keypoints", type=positive, default=1024)
    parser.add_argument("--threads", type=positive)
    options = parser.parse_args()
    xfeat = XFeat(options.xfeat, options.max_keypoints, options.threads)
    with h5py.File(options.output, "w") as file:
        for path in list_images(options.photos, recursive=True):
            features = xfeat.extract(path)
            group = file.create_group(path.relative_to(options.photos).as_posix())
            group["keypoints"] = features.keypoints
            group["descriptors"] = features.descriptors.T.astype(np.float16)
            group["scores"] = features.scores
            group["image_size"] = features.image_size


if __name__ == "__main__":
    main()
