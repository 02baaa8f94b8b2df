"""The share of verified pairs that retrieval finds among many other photographs.

    python benchmarks/retrieval.py SCENE… --distractors FOLDER --work FOLDER --json FILE

The true pairs of a scene are all its pairs that match and have a two-view geometry by COLMAP with
at least 15 inliers. Then the photographs of all scenes and the distractors are one collection: a
pair is found if one photograph is among the neighbors of the other. A photograph with more partners
than neighbors cannot find all of them: `possible` is the share that the best choice would find.
Results in the work folder are reused.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

import featherglue as fg
from featherglue.collection.extraction import SessionSource, extract_features
from featherglue.collection.photo_frames import image_names
from featherglue.collection.retrieval import (
    describe_images,
    find_vocabulary,
    nearest_images,
    read_global_descriptors,
)
from featherglue.collection.store import Store
from featherglue.io.image import list_images
from featherglue.options import make_options

MIN_INLIERS = 15


def verified_pairs(scene: Path, work: Path, model: str, num_keypoints: int) -> dict[str, Any]:
    """Names of the photographs of a scene, and its verified pairs with their inliers."""
    photos = work / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for path in list_images(scene):
        if not (photos / path.name).exists():
            (photos / path.name).symlink_to(path.resolve())
    fg.reconstruct(
        photos,
        work,
        model=model,
        pairs="exhaustive",
        num_keypoints=num_keypoints,
        adjust=False,
        map=False,
        workers=1,
    )
    with pycolmap.Database.open(work / "database.db") as database:
        of_id = {image.image_id: image.name for image in database.read_all_images()}
        found = database.read_two_view_geometry_num_inliers()
    pairs = [
        (*(of_id[i] for i in pycolmap.pair_id_to_image_pair(pair)), int(count))
        for pair, count in zip(*found, strict=True)
        if count >= MIN_INLIERS
    ]
    return {"names": [path.name for path in list_images(photos)], "pairs": pairs}


def described(feature_file: Path, vocabulary: Path, workers: int) -> tuple[list[str], np.ndarray]:
    """Names and global descriptors of the images of a feature file."""
    with Store(feature_file) as store:
        names = [key[0] for key in store.sorted_keys()]
    output = feature_file.with_name(f"{feature_file.stem}_global.h5")
    describe_images(feature_file, output, vocabulary, workers=workers, overwrite=True)
    return names, read_global_descriptors(output, names)


def shares(
    truth: list[tuple[int, int]], neighbors: np.ndarray, num_neighbors: int
) -> dict[str, float]:
    """Share of true pairs among the nearest images, and the largest possible share."""
    chosen = [set(row.tolist()) for row in neighbors[:, :num_neighbors]]
    found = sum(second in chosen[first] or first in chosen[second] for first, second in truth)
    partners = np.bincount(np.array(truth).ravel(), minlength=len(neighbors))
    # At best each photograph finds as many of its pairs as it has neighbors.
    possible = min(len(truth), int(np.minimum(partners, num_neighbors).sum()))
    return {"found": found / len(truth), "possible": possible / len(truth)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Recall of each scene among the photographs of all scenes and the distractors."""
    vocabulary = options.vocabulary or find_vocabulary(options.model)
    settings = make_options(max_keypoints=options.num_keypoints, resize=-1)
    features = options.work / "distractors.h5"
    extract_features(
        options.distractors,
        features,
        image_names(options.distractors),
        SessionSource(model=options.model, options=settings),
        max_size=1024,
        workers=1,
    )
    distractors, rows = described(features, vocabulary, 1)
    blocks, starts, truths = [rows], {}, {}
    total = len(distractors)
    for scene in options.scenes:
        work = options.work / scene.name
        truth = verified_pairs(scene, work, options.model, options.num_keypoints)
        names, rows = described(work / "features.h5", vocabulary, 1)
        number = {name: total + i for i, name in enumerate(names)}
        starts[scene.name] = (total, total + len(names))
        truths[scene.name] = [(number[a], number[b]) for a, b, _ in truth["pairs"]]
        blocks.append(rows)
        total += len(names)
    stacked = np.concatenate(blocks)
    queries = np.arange(len(distractors), total)
    start = time.perf_counter()
    found = nearest_images(stacked, max(options.num_neighbors), queries)
    seconds = time.perf_counter() - start
    neighbors = np.full((total, found.shape[1]), -1)
    neighbors[queries] = found
    result: dict[str, Any] = {
        "distractors": len(distractors),
        "photos": total - len(distractors),
        "search_seconds": seconds,
    }
    for count in options.num_neighbors:
        rows_by_scene = {
            name: {"pairs": len(truth), **shares(truth, neighbors, count)}
            for name, truth in truths.items()
            if truth
        }
        every = [pair for truth in truths.values() for pair in truth]
        result[f"neighbors_{count}"] = {
            "all": {"pairs": len(every), **shares(every, neighbors, count)},
            **rows_by_scene,
        }
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path, help="folders of photographs")
    parser.add_argument("--distractors", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--work", type=Path, required=True, help="folder of the results")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--vocabulary", type=Path, help="default: that of the model")
    parser.add_argument("--num-keypoints", type=int, default=2048)
    parser.add_argument("--num-neighbors", type=int, nargs="+", default=[20])
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    result = measure(options)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['photos']} photographs among {result['distractors']} others")
    print("| scene | neighbors | pairs | found | possible |\n|---|---:|---:|---:|---:|")
    for count in options.num_neighbors:
        for scene, row in result[f"neighbors_{count}"].items():
            print(
                f"| {scene} | {count} | {row['pairs']} | {100 * row['found']:.1f} % | "
                f"{100 * row['possible']:.1f} % |"
            )


if __name__ == "__main__":
    main()
