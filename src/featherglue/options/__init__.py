"""Every setting of a session, defined once.

`ProcessingConfig` holds the settings that an artifact stores; its fields carry the help text, the
bounds and the stage of each setting. `SessionOptions` adds how a session runs, and overrides the
model's settings. Signatures of commands, their help texts and the settings reference in the
documentation are generated from both.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from featherglue.errors import ConfigError, did_you_mean
from featherglue.machine import max_threads
from featherglue.options.setting import Kind, Setting, check_setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Sampling = Literal["published", "exact"]
RuntimeName = Literal["auto", "native", "onnxruntime", "openvino", "torch", "sparse"]
FeaturesKind = Literal["superpoint", "sift", "orb"]
MatcherKind = Literal["superglue", "nn"]
SearchMode = Literal["off", "auto", "always"]


def _setting(default: Any, kind: Kind, help: str, **definition: Any) -> Any:
    """A field with this default and the definition of its setting."""
    setting = Setting(kind=kind, help=help, **definition)
    return dataclasses.field(default=default, metadata={"setting": setting})


_session = functools.partial(_setting, stage="session")
_extraction = functools.partial(_setting, stage="extraction")
_superpoint = functools.partial(_setting, stage="extraction", method="superpoint")
_matching = functools.partial(_setting, stage="matching")
_superglue = functools.partial(_setting, stage="matching", method="superglue")
_refinement = functools.partial(_setting, stage="refinement")


@dataclass(frozen=True, kw_only=True)
class ProcessingConfig:
    """Settings around the networks, as an artifact stores them. See `settings` for each of them.

    Raises:
        ConfigError: a value of the wrong type or out of bounds.
    """

    resize: tuple[int, ...] = _extraction(
        (),
        "size",
        "Size at which keypoints are extracted: the longest side in pixels, width and height, or "
        "-1 for the size of the image. By default an image beyond working_size is reduced to it.",
    )
    working_size: int = _extraction(
        1024,
        "integer",
        "Longest side in pixels beyond which an image is reduced, unless resize or tile is set; "
        "the side of a tile.",
        minimum=64,
        maximum=8192,
    )
    tile: bool = _superpoint(
        False, "boolean", "Extract in overlapping tiles at the size of the image."
    )
    spread: bool = _superpoint(False, "boolean", "Spread the keypoints of a tiled image evenly.")
    max_keypoints: int = _extraction(
        512,
        "integer",
        "Maximum number of keypoints, strongest first; -1 keeps all above the minimum scores.",
        minimum=-1,
        maximum=1_000_000,
    )
    keypoint_threshold: float = _superpoint(
        0.005,
        "number",
        "Minimum score of a keypoint. An explicit value applies to all keypoints and replaces "
        "the higher minimum that a model may have for weaker ones.",
        minimum=0,
        maximum=1,
    )
    high_keypoint_threshold: float = _superpoint(
        0.0,
        "number",
        "Minimum score of the keypoints after the first high_threshold_after. It does not apply "
        "while a weak pair is searched.",
        minimum=0,
        maximum=1,
    )
    high_threshold_after: int = _superpoint(
        0, "integer", "Number of keypoints that only need keypoint_threshold.", minimum=0
    )
    nms_radius: int = _superpoint(
        4, "integer", "Radius of non-maximum suppression in pixels.", minimum=0, maximum=64
    )
    remove_borders: int = _superpoint(
        4,
        "integer",
        "Width in pixels of the image border without keypoints.",
        minimum=0,
        maximum=64,
    )
    subpixel: bool = _superpoint(
        True,
        "boolean",
        "Locate keypoints to a fraction of a pixel on the score map.",
    )
    descriptor_sampling: Sampling = _superpoint(
        "exact",
        "choice",
        "Sampling grid of descriptors: exact positions, or SuperPoint's published grid, "
        "which is off by up to half a pixel.",
        choices=get_args(Sampling),
    )
    sinkhorn_iterations: int = _superglue(
        20, "integer", "Number of Sinkhorn iterations.", minimum=1, maximum=1000
    )
    match_threshold: float = _superglue(
        0.2,
        "number",
        "Minimum confidence of a match of SuperGlue. Guided matching adds others with a confidence "
        "of at most 0.2, and none if this is higher.",
        minimum=0,
        maximum=1,
    )
    consensus: float | None = _matching(
        None,
        "number",
        "Drop matches that contradict their neighbors, unless their confidence is above "
        "this value; None keeps all.",
        minimum=0,
        maximum=1,
        optional=True,
    )
    refine: bool = _refinement(
        True, "boolean", "Refine matches to a fraction of a pixel on the images."
    )
    guided_matching: bool = _refinement(
        True,
        "boolean",
        "Refine the matches of a pair with few matches again, drop those that deviate from a "
        "plane, add others by the homography or the epipolar geometry, and move points onto their "
        "epipolar lines. It needs refine, and SuperGlue or a search.",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = checked(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.spread and not self.tile:
            raise ConfigError("`spread` has no effect without `tile=True`: remove it")

    @property
    def has_high_threshold(self) -> bool:
        """Whether keypoints after the first `high_threshold_after` need a higher score."""
        return self.high_keypoint_threshold > self.keypoint_threshold

    def num_kept(self, scores: NDArray[np.float32]) -> int:
        """Number of keypoints to keep, given their scores (N,) in descending order."""
        above = int((scores > self.high_keypoint_threshold).sum())
        count = min(len(scores), max(self.high_threshold_after, above))
        return count if self.max_keypoints < 0 else min(count, self.max_keypoints)


class Default(enum.Enum):
    """Marks an option that was not given: the value of the model applies."""

    MODEL = "the model's own"


MODEL = Default.MODEL


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a session runs, and which settings of its model it overrides.

    The overrides have the names of `ProcessingConfig`; `MODEL` (the default) leaves the value of
    the model. See `settings` for the meaning and the bounds of each.

    Attributes:
        runtime: runtime of the networks; "auto" is ONNX Runtime.
        threads: maximum number of threads of the networks; None lets the runtime choose.
        features: kind of local features.
        matcher: kind of matcher.
        search: whether to search over rotation and scale; see `matching.search`. The default is
            "auto" with SuperGlue, and "off" with nearest neighbors and for consecutive frames of
            a video. Collections search only pairs of photographs that the first model lacks.

    Raises:
        ConfigError: a value of the wrong type or out of bounds.
    """

    runtime: RuntimeName = _session(
        "auto", "choice", "Runtime of the networks.", choices=get_args(RuntimeName)
    )
    threads: int | None = _session(
        None, "integer", "Maximum number of threads of the networks.", minimum=1, optional=True
    )
    features: FeaturesKind = _session(
        "superpoint", "choice", "Kind of local features.", choices=get_args(FeaturesKind)
    )
    matcher: MatcherKind = _session(
        "superglue",
        "choice",
        "Kind of matcher; nn is mutual nearest neighbors.",
        choices=get_args(MatcherKind),
    )
    search: SearchMode | Default = _session(
        MODEL,
        "choice",
        "Search over rotation and scale: for pairs that need it (auto, the default with "
        "SuperGlue), always, or off. Consecutive frames of a video are not searched by default, "
        "of collections only pairs of photographs that a first model lacks.",
        choices=get_args(SearchMode),
    )
    resize: int | Sequence[int] | Default = MODEL
    working_size: int | Default = MODEL
    tile: bool | Default = MODEL
    spread: bool | Default = MODEL
    max_keypoints: int | Default = MODEL
    keypoint_threshold: float | Default = MODEL
    high_keypoint_threshold: float | Default = MODEL
    high_threshold_after: int | Default = MODEL
    nms_radius: int | Default = MODEL
    remove_borders: int | Default = MODEL
    subpixel: bool | Default = MODEL
    descriptor_sampling: Sampling | Default = MODEL
    sinkhorn_iterations: int | Default = MODEL
    match_threshold: float | Default = MODEL
    consensus: float | Default | None = MODEL
    refine: bool | Default = MODEL
    guided_matching: bool | Default = MODEL

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not MODEL:
                object.__setattr__(self, field.name, checked(field.name, value))
        self._check_unused()

    def _check_unused(self) -> None:
        """Raise ConfigError if overrides have no effect with the chosen methods."""
        for parameter, stage in (("features", "extraction"), ("matcher", "matching")):
            method = getattr(self, parameter)
            definitions = {name: settings()[name] for name in self.overrides()}
            unused = [
                f"`{name}`"
                for name, setting in definitions.items()
                if setting.stage == stage and setting.method not in (None, method)
            ]
            if unused:
                has, them = ("has", "it") if len(unused) == 1 else ("have", "them")
                raise ConfigError(
                    f"{' and '.join(unused)} {has} no effect with `{parameter}={method!r}`: "
                    f"remove {them}"
                )
        if self.guided_matching is True and self.refine is False:
            raise ConfigError("`guided_matching` has no effect with `refine=False`: remove it")
        if self.guided_matching is True and self.matcher == "nn" and not self._searches():
            raise ConfigError(
                "`guided_matching` has no effect with `matcher='nn'` and no search: remove it"
            )

    def _searches(self) -> bool:
        """Whether a search is asked for."""
        return self.search is not MODEL and self.search != "off"

    def overrides(self) -> dict[str, Any]:
        """The given settings of `ProcessingConfig`, by name."""
        names = [field.name for field in dataclasses.fields(ProcessingConfig)]
        return {n: getattr(self, n) for n in names if getattr(self, n) is not MODEL}

    def apply(self, processing: ProcessingConfig) -> ProcessingConfig:
        """The settings of a model with the overrides."""
        return with_overrides(processing, self.overrides())


def make_options(options: SessionOptions | None = None, **overrides: Any) -> SessionOptions:
    """Session options with some of their fields replaced.

    Raises:
        ConfigError: an unknown field, or a value out of bounds.
    """
    names = [field.name for field in dataclasses.fields(SessionOptions)]
    unknown = sorted(set(overrides) - set(names))
    if unknown:
        hint = did_you_mean(unknown[0], names)
        raise ConfigError(f"unknown option {unknown[0]!r}{hint}; known: {', '.join(names)}")
    if options is not None and not isinstance(options, SessionOptions):
        raise ConfigError(f"options must be SessionOptions, not {type(options).__name__}")
    return dataclasses.replace(options or SessionOptions(), **overrides)


def settings() -> dict[str, Setting]:
    """The definition of every setting of a session, by name."""
    return dict(_SETTINGS)


_SETTINGS: dict[str, Setting] = {
    field.name: field.metadata["setting"]
    for cls in (SessionOptions, ProcessingConfig)
    for field in dataclasses.fields(cls)
    if "setting" in field.metadata
}


def with_overrides(processing: ProcessingConfig, values: Mapping[str, Any]) -> ProcessingConfig:
    """Replace settings by name.

    A `keypoint_threshold` applies to all keypoints: it resets `high_keypoint_threshold`, unless
    that is given too.

    Raises:
        ConfigError: an unknown name, a value of the wrong type or out of bounds.
    """
    names = [field.name for field in dataclasses.fields(ProcessingConfig)]
    unknown = sorted(set(values) - set(names))
    if unknown and unknown[0] == "search":
        raise ConfigError("'search' is no setting here: use session.with_search")
    if unknown and unknown[0] in _SETTINGS:
        raise ConfigError(f"{unknown[0]!r} is fixed when a session is loaded: pass it to load")
    if unknown:
        hint = did_you_mean(unknown[0], names)
        raise ConfigError(f"unknown setting {unknown[0]!r}{hint}; known: {', '.join(names)}")
    if "keypoint_threshold" in values:
        values = {"high_keypoint_threshold": 0.0} | dict(values)
    return dataclasses.replace(processing, **values)


def checked(name: str, value: Any) -> Any:
    """The value of a setting, as its plain Python type.

    Raises:
        ConfigError: the wrong type, or out of bounds; the message names the setting.
    """
    setting = _SETTINGS[name]
    if name == "threads":
        setting = dataclasses.replace(setting, maximum=max_threads())
    return check_setting(name, value, setting)
