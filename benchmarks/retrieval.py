"""The share of verified pairs that retrieval finds among many other photographs.

    python benchmarks/retrieval.py SCENE… --distractors FOLDER --work FOLDER --json FILE

The true pairs of a scene are all its pairs that match and have a two-view geometry by COLMAP with
at least 15 inliers, without the cascade. Then the photographs of all scenes and the distractors are
one collection, in which each photograph of a scene chooses its neighbors: `found` is the share of
the true pairs that are chosen, `nearest` that of pairs of which one is among the most similar ones
of the other, `possible` that of the best choice. Results in the work folder are reused.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from option_types import positive

import featherglue as fg
from featherglue.collection.candidate_votes import Ranking, rank_candidates
from featherglue.collection.extraction import SessionSource, extract_features
from featherglue.collection.pair_selection import retrieval_pairs
from featherglue.collection.photo_frames import image_names
from featherglue.collection.records import Record
from featherglue.collection.retrieval import (
    describe_images,
    find_vocabulary,
    nearest_images,
    num_candidates,
    read_global_descriptors,
)
from featherglue.collection.store import Store, write_store
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
        cascade=False,
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


def described(feature_file: Path, vocabulary: Path, prefix: str) -> Iterator[Record]:
    """The global descriptors of the images of a feature file, with a prefix of their names."""
    output = feature_file.with_name(f"{feature_file.stem}_global.h5")
    describe_images(feature_file, output, vocabulary, workers=1, overwrite=True)
    with Store(output) as store:
        for key in store.sorted_keys():
            record = store.read(key)
            yield Record(
                key=(f"{prefix}/{key[0]}",), attributes=record.attributes, arrays=record.arrays
            )


def shares(
    truth: list[tuple[int, int]], ranking: Ranking, num_neighbors: int, total: int
) -> dict[str, float]:
    """Share of the true pairs that are found, and the largest possible share."""
    names = [str(i) for i in range(total)]
    chosen = {(int(a), int(b)) for a, b in retrieval_pairs(names, ranking, num_neighbors)}
    lists = {image: set(others[:num_neighbors].tolist()) for image, others in ranking.items()}
    mutual = sum(b in lists.get(a, ()) or a in lists.get(b, ()) for a, b in truth)
    partners = np.bincount(np.array(truth).ravel(), minlength=total)
    # At best each photograph finds as many of its pairs as it has neighbors.
    possible = min(len(truth), int(np.minimum(partners, num_neighbors).sum()))
    return {
        "found": len(chosen & set(truth)) / len(truth),
        "nearest": mutual / len(truth),
        "possible": possible / len(truth),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Share of the pairs of each scene among the photographs of all scenes and the distractors."""
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
    records = list(described(features, vocabulary, "distractors"))
    num_distractors = len(records)
    pairs: dict[str, list[tuple[str, str]]] = {}
    for scene in options.scenes:
        work = options.work / scene.name
        truth = verified_pairs(scene, work, options.model, options.num_keypoints)
        records += described(work / "features.h5", vocabulary, scene.name)
        pairs[scene.name] = [
            (f"{scene.name}/{a}", f"{scene.name}/{b}") for a, b, _ in truth["pairs"]
        ]
    everything = options.work / "everything.h5"
    write_store(everything, {"vocabulary": str(vocabulary)}, records)
    names = [record.key[0] for record in records]
    del records
    number = {name: i for i, name in enumerate(names)}
    truths = {
        scene: [(min(number[a], number[b]), max(number[a], number[b])) for a, b in listed]
        for scene, listed in pairs.items()
    }
    queries = np.arange(num_distractors, len(names))
    start = time.perf_counter()
    count = num_candidates(max(options.num_neighbors), len(names))
    found = nearest_images(read_global_descriptors(everything, names), count, queries)
    candidates = dict(zip(queries.tolist(), found, strict=True))
    ranking = rank_candidates(everything, options.work / "votes.h5", names, candidates, workers=1)
    ranking = {image: others for image, others in ranking.items() if image >= num_distractors}
    result: dict[str, Any] = {
        "distractors": num_distractors,
        "photos": len(queries),
        "milliseconds": (time.perf_counter() - start) / len(queries) * 1000,
    }
    for neighbors in options.num_neighbors:
        rows = {
            scene: {"pairs": len(truth), **shares(truth, ranking, neighbors, len(names))}
            for scene, truth in truths.items()
            if truth
        }
        every = [pair for truth in truths.values() for pair in truth]
        everyone = {"pairs": len(every), **shares(every, ranking, neighbors, len(names))}
        result[f"neighbors_{neighbors}"] = {"all": everyone, **rows}
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path, help="folders of photographs")
    parser.add_argument("--distractors", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--work", type=Path, required=True, help="folder of the results")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--vocabulary", type=Path, help="default: that of the model")
    parser.add_argument("--num-keypoints", type=positive, default=2048)
    parser.add_argument("--num-neighbors", type=positive, nargs="+", default=[20])
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    result = measure(options)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['photos']} photographs among {result['distractors']} others")
    print(
        "| scene | neighbors | pairs | found | nearest | possible |\n|---|---:|---:|---:|---:|---:|"
    )
    for count in options.num_neighbors:
        for scene, row in result[f"neighbors_{count}"].items():
            print(
                f"| {scene} | {count} | {row['pairs']} | {100 * row['found']:.1f} % | "
                f"{100 * row['nearest']:.1f} % | "
                f"{100 * row['possible']:.1f} % |"
            )


if __name__ == "__main__":
    main()
