"""Cache of an evaluation: features of images and results of pairs.

The key of an entry is the fingerprint of everything that determines it. A damaged entry counts as
missing, with a warning.
"""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from featherglue.errors import OutputError, StoredFileError, StoredFileWarning, UsageError, counted
from featherglue.evaluation.openers import describe, is_identifiable
from featherglue.evaluation.suites import ImagePair, PairResult, Pipeline, Suite
from featherglue.fingerprint import code_fingerprint, file_state, fingerprint
from featherglue.io.files import write_npz
from featherglue.io.gray import Gray
from featherglue.io.json_lines import checked_entry, checked_line, read_lines
from featherglue.io.npz import read_npz
from featherglue.types import Features

_MAX_IN_MEMORY = 32  # images


class FeatureCache:
    """Features by the content of the image, in memory (the latest) and in a folder (all).

    The folder depends only on the extraction, so that pipelines with different matchers share
    features.

    Args:
        pipeline: extracts features that are not stored yet.
        folder: cache folder of the evaluation; None keeps features in memory only.
    """

    def __init__(self, pipeline: Pipeline, folder: Path | None) -> None:
        self._pipeline = pipeline
        self._recent: OrderedDict[str, Features] = OrderedDict()
        self._folder: Path | None = None
        if folder is not None:
            description = describe(pipeline)
            extraction = description.get("extractor", description)
            self._folder = folder / "features" / fingerprint(extraction, code_fingerprint())

    def extract(self, image: Gray) -> Features:
        """Features of a gray image (H, W) uint8.

        Raises:
            OutputError: the features cannot be stored.
        """
        key = fingerprint(image)
        if key not in self._recent:
            self._recent[key] = self._load_or_extract(key, image)
            if len(self._recent) > _MAX_IN_MEMORY:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return self._recent[key]

    def _load_or_extract(self, key: str, image: Gray) -> Features:
        if self._folder is None:
            return self._pipeline.extract(image)
        path = self._folder / f"{key}.npz"
        stored = _read_features(path, image)
        if stored is not None:
            return stored
        features = self._pipeline.extract(image)
        other_image = features.image is not None and not np.array_equal(features.image, image)
        if type(features) is Features and not other_image:
            write_npz(
                path,
                {
                    "keypoints": features.keypoints,
                    "scores": features.scores,
                    "descriptors": features.descriptors,
                    "image_size": np.array(features.image_size),
                    "has_image": np.array(features.image is not None),
                },
            )
        return features


def _read_features(path: Path, image: Gray) -> Features | None:
    if not path.exists():
        return None
    try:
        arrays = read_npz(path)
        size = arrays["image_size"]
        return Features(
            keypoints=arrays["keypoints"],
            scores=arrays["scores"],
            descriptors=arrays["descriptors"],
            image_size=(int(size[0]), int(size[1])),
            image=image if arrays["has_image"] else None,
        )
    except StoredFileError as error:
        reason = str(error)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        reason = f"{path}: not a feature file ({error})"
    warnings.warn(f"{reason}; its features are extracted again", StoredFileWarning, stacklevel=4)
    return None


class ResultLog:
    """Results of pairs in a file, one line of JSON each.

    Results of pairs with unreadable images are not stored: they are evaluated again.

    Args:
        folder: cache folder of the evaluation.
        pipeline: the evaluated pipeline.
        suite: the suite.

    Raises:
        UsageError: the pipeline has no description.
    """

    def __init__(self, folder: Path, pipeline: Pipeline, suite: Suite[Any, Any]) -> None:
        if not is_identifiable(pipeline):
            raise UsageError(
                f"`cache` needs to identify {type(pipeline).__qualname__}: give it an attribute "
                "`description`, a mapping of plain values"
            )
        key = fingerprint(suite.name, suite.settings(), describe(pipeline), code_fingerprint())
        self.path = folder / f"{suite.name}-{key}.jsonl"
        self._stored = self._read()

    def get(self, pair: ImagePair) -> PairResult | None:
        """The stored result of a pair, unless its images have changed since."""
        stored = self._stored.get(pair_fingerprint(pair))
        if stored is None:
            return None
        return PairResult(index=pair.index, name=pair.name, group=pair.group, **stored)

    def add(self, pair: ImagePair, result: PairResult) -> None:
        """Store a result.

        Raises:
            OutputError: the file cannot be written.
        """
        if result.unreadable:
            return
        entry = {
            "key": pair_fingerprint(pair),
            "metrics": dict(result.metrics),
            "failure": result.failure,
        }
        # The leading line break separates the entry from one that an interruption cut short.
        line = f"\n{checked_line(entry)}\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from None

    def _read(self) -> dict[str, dict[str, Any]]:
        stored: dict[str, dict[str, Any]] = {}
        num_damaged = 0
        for line in read_lines(self.path):
            try:
                entry = checked_entry(line)
                stored[entry["key"]] = {"metrics": entry["metrics"], "failure": entry["failure"]}
            except (ValueError, KeyError, TypeError):
                num_damaged += 1
        if num_damaged:
            warnings.warn(
                f"{self.path}: {counted(num_damaged, 'damaged result')}; evaluated again",
                StoredFileWarning,
                stacklevel=4,
            )
        return stored


def pair_fingerprint(pair: ImagePair) -> str:
    """Fingerprint of a pair and of the present state of its image files."""
    fields = vars(pair).items()
    return fingerprint(
        {
            name: file_state(value) if isinstance(value, os.PathLike) else value
            for name, value in fields
        }
    )
