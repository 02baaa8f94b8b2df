"""Every setting of a session, defined once.

`ProcessingConfig` holds the settings that an artifact stores; its fields carry the help text, the
bounds and the owner of each setting. `SessionOptions` adds how a session runs, and overrides the
model's settings. Signatures of commands, their help texts and the settings reference in the
documentation are generated from both.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from featherglue.errors import ConfigError
from featherglue.machine import max_threads
from featherglue.options.setting import Setting, check_setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Sampling = Literal["published", "exact"]
RuntimeName = Literal["auto", "onnxruntime", "openvino", "torch"]
FeaturesKind = Literal["superpoint", "sift", "orb"]
MatcherKind = Literal["superglue", "nn"]
SearchMode = Literal["off", "auto", "always"]


def _setting(default: Any, **definition: Any) -> Any:
    return dataclasses.field(default=default, metadata={"setting": Setting(**definition)})


@dataclass(frozen=True, kw_only=True)
class ProcessingConfig:
    """Settings around the networks, as an artifact stores them. See `settings` for each of them.

    Raises:
        ConfigError: a value of the wrong type or out of bounds.
    """

    resize: tuple[int, ...] = _setting(
        (),
        kind="size",
        owner="extraction",
        help="Working size: the longest side in pixels, width and height, or -1 for the size of "
        "the image.",
    )
    max_keypoints: int = _setting(
        512,
        kind="integer",
        owner="extraction",
        minimum=-1,
        help="Maximum number of keypoints, strongest first; -1 keeps all.",
    )
    keypoint_threshold: float = _setting(
        0.005,
        kind="number",
        owner="extraction",
        only="superpoint",
        minimum=0,
        maximum=1,
        help="Minimum score of a keypoint. An explicit value applies to all keypoints and replaces "
        "the higher minimum that a model may have for weaker ones.",
    )
    high_keypoint_threshold: float = _setting(
        0.0,
        kind="number",
        owner="extraction",
        only="superpoint",
        minimum=0,
        maximum=1,
        help="Minimum score of the keypoints after the first high_threshold_after.",
    )
    high_threshold_after: int = _setting(
        0,
        kind="integer",
        owner="extraction",
        only="superpoint",
        minimum=0,
        help="Number of keypoints that only need keypoint_threshold.",
    )
    nms_radius: int = _setting(
        4,
        kind="integer",
        owner="extraction",
        only="superpoint",
        minimum=0,
        maximum=64,
        help="Radius of non-maximum suppression in pixels.",
    )
    remove_borders: int = _setting(
        4,
        kind="integer",
        owner="extraction",
        only="superpoint",
        minimum=0,
        maximum=64,
        help="Width in pixels of the image border without keypoints.",
    )
    subpixel: bool = _setting(
        True,
        kind="boolean",
        owner="extraction",
        only="superpoint",
        help="Locate keypoints to a fraction of a pixel on the score map.",
    )
    descriptor_sampling: Sampling = _setting(
        "exact",
        kind="choice",
        owner="extraction",
        only="superpoint",
        choices=get_args(Sampling),
        help="Sampling grid of descriptors: exact positions, or SuperPoint's published grid, "
        "which is off by up to half a pixel.",
    )
    sinkhorn_iterations: int = _setting(
        20,
        kind="integer",
        owner="matching",
        only="superglue",
        minimum=1,
        maximum=1000,
        help="Number of Sinkhorn iterations.",
    )
    match_threshold: float = _setting(
        0.2,
        kind="number",
        owner="matching",
        only="superglue",
        minimum=0,
        maximum=1,
        help="Minimum confidence of a match.",
    )
    consensus: float | None = _setting(
        None,
        kind="number",
        owner="matching",
        minimum=0,
        maximum=1,
        optional=True,
        help="Drop matches that contradict their neighbours, unless their confidence is above "
        "this value; None keeps all.",
    )
    refine: bool = _setting(
        True,
        kind="boolean",
        owner="refinement",
        help="Refine matches to a fraction of a pixel on the images.",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = checked(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

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
        search: whether to search over rotation and scale; see `matching.search`.

    Raises:
        ConfigError: a value of the wrong type or out of bounds.
    """

    runtime: RuntimeName = _setting(
        "auto",
        kind="choice",
        owner="session",
        choices=get_args(RuntimeName),
        help="Runtime of the networks.",
    )
    threads: int | None = _setting(
        None,
        kind="integer",
        owner="session",
        minimum=1,
        optional=True,
        help="Maximum number of threads of the networks.",
    )
    features: FeaturesKind = _setting(
        "superpoint",
        kind="choice",
        owner="session",
        choices=get_args(FeaturesKind),
        help="Kind of local features.",
    )
    matcher: MatcherKind = _setting(
        "superglue",
        kind="choice",
        owner="session",
        choices=get_args(MatcherKind),
        help="Kind of matcher; nn is mutual nearest neighbours.",
    )
    search: SearchMode = _setting(
        "off",
        kind="choice",
        owner="session",
        choices=get_args(SearchMode),
        help="Search over rotation and scale: for pairs that need it (auto), always, or off.",
    )
    resize: int | Sequence[int] | Default = MODEL
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

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not MODEL:
                object.__setattr__(self, field.name, checked(field.name, value))
        unused = next(self._unused(), None)
        if unused is not None:
            name, only, chosen = unused
            raise ConfigError(f"{name} belongs to {only} and has no effect on {chosen}: remove it")

    def _unused(self) -> Any:
        """Overrides without effect, as (name, method that uses it, chosen method)."""
        chosen = {"extraction": self.features, "matching": self.matcher}
        for name in self.overrides():
            setting = settings()[name]
            if setting.only and chosen[setting.owner] != setting.only:
                yield name, setting.only, chosen[setting.owner]

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
        raise ConfigError(f"unknown option {unknown[0]!r}; known: {', '.join(names)}")
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
    if unknown and unknown[0] in _SETTINGS:
        raise ConfigError(f"{unknown[0]!r} is fixed when a session is loaded: pass it to load")
    if unknown:
        raise ConfigError(f"unknown setting {unknown[0]!r}; known: {', '.join(names)}")
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
