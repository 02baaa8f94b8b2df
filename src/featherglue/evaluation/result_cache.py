"""What is kept between runs: features of images, and results of pairs.

Both are found by fingerprints of all that shapes them, so that nothing stale is ever used; what
is damaged counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from featherglue.errors import OutputError, UsageError
from featherglue.evaluation.openers import describe, is_identifiable
from featherglue.evaluation.suites import ImagePair, PairResult, Pipeline, Suite
from featherglue.fingerprint import code_fingerprint, fingerprint
from featherglue.io.files import write_npz
from featherglue.io.image import Grey
from featherglue.types import Features

_IN_MEMORY = 32


class FeatureStore:
    """Features by the image's content: those used last in memory, all in a folder if one is given.

    Only what shapes the extraction is part of the key: matchers share the features.
    """

    def __init__(self, matching: Pipeline, folder: Path | None) -> None:
        self._matching = matching
        self._recent: OrderedDict[str, Features] = OrderedDict()
        self._folder: Path | None = None
        if folder is not None:
            description = describe(matching)
            shaped_by = description.get("extractor", description)
            self._folder = folder / "features" / fingerprint(shaped_by, code_fingerprint())

    def extract(self, image: Grey) -> Features:
        """Features of an image (H, W) uint8."""
        key = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:32]
        if key not in self._recent:
            self._recent[key] = self._find(key, image)
            if len(self._recent) > _IN_MEMORY:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return self._recent[key]

    def _find(self, key: str, image: Grey) -> Features:
        if self._folder is None:
            return self._matching.extract(image)
        path = self._folder / f"{key}.npz"
        kept = _read_features(path, image)
        if kept is not None:
            return kept
        features = self._matching.extract(image)
        own_image = features.image is not None and not np.array_equal(features.image, image)
        if type(features) is Features and not own_image:
            write_npz(
                path,
                {
                    "keypoints": features.keypoints,
                    "scores": features.scores,
                    "descriptors": features.descriptors,
                    "image_size": np.array(features.image_size),
                    "keeps_image": np.array(features.image is not None),
                },
            )
        return features


def _read_features(path: Path, image: Grey) -> Features | None:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            size = arrays["image_size"]
            return Features(
                keypoints=arrays["keypoints"],
                scores=arrays["scores"],
                descriptors=arrays["descriptors"],
                image_size=(int(size[0]), int(size[1])),
                image=image if arrays["keeps_image"] else None,
            )
    except (OSError, KeyError, ValueError, EOFError, BadZipFile):
        return None


class ResultLog:
    """Results of pairs, a line of JSON each, added as they come.

    Pairs of which an image could not be read are not kept, so that they are tried again.
    """

    def __init__(self, folder: Path, matching: Pipeline, suite: Suite[Any, Any]) -> None:
        if not is_identifiable(matching):
            raise UsageError(
                f"a cache needs to know what {type(matching).__qualname__} is: give it an "
                "attribute `description`, a mapping of plain values"
            )
        key = fingerprint(suite.name, suite.settings(), describe(matching), code_fingerprint())
        self.path = folder / f"{suite.name}-{key}.jsonl"
        self._known = self._read()

    def get(self, task: ImagePair) -> PairResult | None:
        """The result of a task, if it is kept and its images did not change."""
        numbers = self._known.get(pair_key(task))
        if numbers is None:
            return None
        return PairResult(index=task.index, name=task.name, group=task.group, **numbers)

    def add(self, task: ImagePair, result: PairResult) -> None:
        """Keep a result.

        Raises:
            OutputError: the file cannot be written.
        """
        if result.unreadable:
            return
        kept = {
            "key": pair_key(task),
            "metrics": dict(result.metrics),
            "failure": result.failure,
        }
        # A line that was cut off by an interruption stays alone on its line.
        line = f"\n{json.dumps(kept)}\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from None

    def _read(self) -> dict[str, dict[str, Any]]:
        known: dict[str, dict[str, Any]] = {}
        try:
            lines = self.path.read_bytes().splitlines()
        except OSError:
            return known
        for line in lines:
            try:
                kept = json.loads(line)
                known[kept["key"]] = {"metrics": kept["metrics"], "failure": kept["failure"]}
            except (ValueError, KeyError, TypeError):
                continue
        return known


def pair_key(task: ImagePair) -> str:
    """Fingerprint of a task and of the present state of its images."""
    return fingerprint({name: _plain(value) for name, value in vars(task).items()})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        path = Path(value).resolve()
        try:
            state = path.stat()
        except OSError:
            return [str(path)]
        return [str(path), state.st_size, state.st_mtime_ns]
    return value
