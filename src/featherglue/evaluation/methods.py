"""What is evaluated: how it is opened in each process, and how it is described."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import cv2
import numpy as np

import featherglue
from featherglue.config import to_dict
from featherglue.errors import UsageError
from featherglue.evaluation.suites import Matching
from featherglue.matching.extractors import ClassicalExtractor, NetworkExtractor
from featherglue.matching.matchers import NearestNeighbourMatcher, NetworkMatcher
from featherglue.runtime.base import RuntimeName
from featherglue.session import FeaturesKind, MatcherKind, Session, load

_EXTRACTION = (
    "resize",
    "max_keypoints",
    "keypoint_threshold",
    "nms_radius",
    "remove_borders",
    "subpixel",
    "descriptor_sampling",
)
_CODE = ("*.py", "data/*.py", "evaluation/*.py", "runtime/*.py")


class Opener(Protocol):
    """Opens something to evaluate; can be sent to other processes."""

    def open(self) -> Matching: ...


Evaluated: TypeAlias = "Matching | Opener"


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """The arguments of `featherglue.load`, to open the same session in several processes."""

    model: str = "fast"
    runtime: RuntimeName = "auto"
    threads: int | None = None
    features: FeaturesKind = "superpoint"
    matcher: MatcherKind = "superglue"
    resize: tuple[int, ...] | None = None
    max_keypoints: int | None = None
    keypoint_threshold: float | None = None
    nms_radius: int | None = None
    subpixel: bool | None = None
    sinkhorn_iterations: int | None = None
    match_threshold: float | None = None
    consensus: float | None = None
    refine: bool | None = None

    def open(self) -> Session:
        """The session. See `featherglue.load` for the errors."""
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return load(**options)


def open_matching(evaluated: Evaluated) -> Matching:
    """The object itself, or what an opener opens."""
    if hasattr(evaluated, "extract") and hasattr(evaluated, "match"):
        return cast("Matching", evaluated)
    if not hasattr(evaluated, "open"):
        raise UsageError("something with extract and match is needed, or with open")
    return evaluated.open()


def describe(matching: Matching) -> dict[str, Any]:
    """What it is, as plain values, with at least a `name`.

    Sessions are described by their methods, settings and weights; others by their attribute
    `description`, or by the name of their class.
    """
    if isinstance(matching, Session):
        return _describe_session(matching)
    kind = type(matching).__qualname__
    description = getattr(matching, "description", {"name": kind})
    if not isinstance(description, dict):
        raise UsageError(f"the description of {kind} must be a mapping of plain values")
    return {"name": kind} | description


def has_identity(matching: Matching) -> bool:
    """Whether its description tells it from others, so that its results can be kept."""
    return isinstance(matching, Session) or hasattr(matching, "description")


def fingerprint(*values: Any) -> str:
    """Sixteen hexadecimal digits of plain values."""
    try:
        text = json.dumps(values, sort_keys=True)
    except TypeError as error:
        raise UsageError(f"a description must hold plain values only ({error})") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_fingerprint() -> str:
    """Of everything installed that shapes results: a change of it makes kept ones stale."""
    root = Path(featherglue.__file__).parent
    files = sorted(path for pattern in _CODE for path in root.glob(pattern))
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    versions = featherglue.__version__, np.__version__, str(cv2.__version__)
    return fingerprint(digest.hexdigest(), versions)


def _describe_session(session: Session) -> dict[str, Any]:
    extractor, matcher = _describe_extractor(session), _describe_matcher(session)
    if session.artifact is None:
        name = f"{extractor['kind']}+{matcher['kind']}"
    else:
        name = session.artifact.folder.name if session.artifact.folder else "model"
        if extractor["kind"] != "superpoint" or matcher["kind"] != "superglue":
            name = f"{name} ({extractor['kind']}+{matcher['kind']})"
    return {"name": name, "extractor": extractor, "matcher": matcher}


def _describe_extractor(session: Session) -> dict[str, Any]:
    extractor, processing = session.extractor, to_dict(session.processing)
    if isinstance(extractor, ClassicalExtractor):
        return {
            "kind": extractor.kind,
            "max_keypoints": extractor.max_keypoints,
            "resize": processing["resize"],
        }
    if isinstance(extractor, NetworkExtractor):
        settings = {name: processing[name] for name in _EXTRACTION}
        network = _describe_network(session, "extractor", extractor.runtime.name)
        return {"kind": "superpoint"} | settings | network
    return {"kind": type(extractor).__qualname__} | processing


def _describe_matcher(session: Session) -> dict[str, Any]:
    matcher, processing = session.matcher, to_dict(session.processing)
    after = {name: processing[name] for name in ("consensus", "refine")}
    if isinstance(matcher, NearestNeighbourMatcher):
        return {"kind": "nn", "ratio": matcher.ratio} | after
    if isinstance(matcher, NetworkMatcher):
        settings = {name: processing[name] for name in ("sinkhorn_iterations", "match_threshold")}
        network = _describe_network(session, "matcher", matcher.runtime.name)
        return {"kind": "superglue"} | settings | after | network
    return {"kind": type(matcher).__qualname__} | processing


def _describe_network(session: Session, part: str, runtime: str) -> dict[str, Any]:
    assert session.artifact is not None
    architecture = to_dict(session.artifact.architecture)[part]
    return {
        "runtime": runtime,
        "weights": session.artifact.identity,
        "architecture": fingerprint(architecture),
    }
