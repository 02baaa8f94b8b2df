"""Frozen configuration: what a model is (architecture), how it is used (processing), how it is
stored (storage) and where it comes from (provenance).

Every class turns into plain JSON values with `to_dict` and back with `from_dict`, which refuses
unknown and missing keys: a configuration that we do not fully understand is never half-used.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from featherglue.errors import ConfigError

T = TypeVar("T")

LayerKind = Literal["self", "cross"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class SuperPointConfig:
    """Widths of a SuperPoint network (DeTone et al. 2018); the defaults are the published ones.

    Attributes:
        channels: output channels of conv1a, conv1b, conv2a, conv2b, conv3a, conv3b, conv4a, conv4b.
        detector_channels: output channels of convPa.
        descriptor_channels: output channels of convDa.
        descriptor_dim: D, output channels of convDb.
        batch_norm: a batch normalisation behind every convolution but the two last ones.
        stem: 1 as published. 2 has a conv1a of 4×4 pixels at every second pixel and leaves out the
            first pooling, so that nothing is computed for every pixel.
    """

    channels: tuple[int, ...] = (64, 64, 64, 64, 128, 128, 128, 128)
    detector_channels: int = 256
    descriptor_channels: int = 256
    descriptor_dim: int = 256
    batch_norm: bool = False
    stem: int = 1

    def __post_init__(self) -> None:
        _require(self.stem in (1, 2), f"stem is 1 or 2, not {self.stem}")
        _require(len(self.channels) == 8, "channels: 8 widths are needed (conv1a … conv4b)")
        widths = (
            *self.channels,
            self.detector_channels,
            self.descriptor_channels,
            self.descriptor_dim,
        )
        _require(all(width >= 1 for width in widths), "every SuperPoint width must be at least 1")


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """One layer of the attentional graph neural network.

    Attributes:
        kind: "self" attends within an image, "cross" to the other image.
        heads: number of attention heads; head_dim: width of each.
        hidden: width of the hidden layer of the message MLP.
    """

    kind: LayerKind
    heads: int = 4
    head_dim: int = 64
    hidden: int = 512

    def __post_init__(self) -> None:
        _require(self.kind in ("self", "cross"), "a layer's kind is 'self' or 'cross'")
        _require(
            min(self.heads, self.head_dim, self.hidden) >= 1,
            "heads, head_dim and hidden must be at least 1",
        )


def _published_layers() -> tuple[AttentionConfig, ...]:
    return (AttentionConfig(kind="self"), AttentionConfig(kind="cross")) * 9


@dataclass(frozen=True, kw_only=True)
class SuperGlueConfig:
    """Sizes of a SuperGlue network (Sarlin et al. 2020); the defaults are the published ones.

    Attributes:
        descriptor_dim: D of the features that it matches; where it differs from `width` a
            linear projection comes first.
        width: feature width of the graph neural network.
        keypoint_encoder: hidden widths of the MLP that encodes (x, y, score).
        layers: the attention layers in order.
        batch_norm: batch normalisation in the MLPs, as published.
    """

    descriptor_dim: int = 256
    width: int = 256
    keypoint_encoder: tuple[int, ...] = (32, 64, 128, 256)
    layers: tuple[AttentionConfig, ...] = field(default_factory=_published_layers)
    batch_norm: bool = True

    def __post_init__(self) -> None:
        widths = (self.descriptor_dim, self.width, *self.keypoint_encoder)
        _require(all(width >= 1 for width in widths), "every SuperGlue width must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """The pair: an extractor, a matcher, or both."""

    extractor: SuperPointConfig | None = None
    matcher: SuperGlueConfig | None = None

    def __post_init__(self) -> None:
        _require(
            self.extractor is not None or self.matcher is not None,
            "an architecture needs an extractor, a matcher, or both",
        )
        if self.extractor is not None and self.matcher is not None:
            _require(
                self.extractor.descriptor_dim == self.matcher.descriptor_dim,
                f"the extractor gives {self.extractor.descriptor_dim}-d descriptors, "
                f"the matcher expects {self.matcher.descriptor_dim}-d ones",
            )


@dataclass(frozen=True, kw_only=True)
class LayerStorage:
    """How one tensor is stored.

    Attributes:
        scheme: "float" holds numbers; "linear" whole numbers, with scales and zero points (Jacob
            et al. 2018); "codebook" indices into lists of numbers (Han et al. 2016).
        dtype: number format of what is held as floats.
        bits: of a whole number or index; 0 for floats.
        groups: how many scales or codebooks there are; the first axis is shared out evenly.
        sparsity: share of exact zeros.
        positions: "all" holds every number; "mask" and "runs" only those that are not zero,
            with where they are.
        coding: "plain", or of the whole numbers: "packed" or "huffman".
    """

    scheme: Literal["float", "linear", "codebook"] = "float"
    dtype: Literal["float32", "float16", "int64"] = "float32"
    bits: int = 0
    groups: int = 1
    sparsity: float = 0.0
    positions: Literal["all", "mask", "runs"] = "all"
    coding: Literal["plain", "packed", "huffman"] = "plain"

    def __post_init__(self) -> None:
        coded = self.scheme != "float"
        low, high = (2, 8) if coded else (0, 0)
        _require(low <= self.bits <= high, f"bits of {self.scheme} storage: {self.bits}")
        _require(self.groups >= 1, f"groups must be at least 1, not {self.groups}")
        _require(coded == (self.coding != "plain"), f"{self.scheme} storage, {self.coding} coding")


@dataclass(frozen=True, kw_only=True)
class ActivationStorage:
    """How numbers between two layers are held as whole numbers: q = round(x / scale) + zero_point.

    Attributes:
        scale: of one step, above 0. zero_point: the whole number that stands for 0.
        bits: 4 to 8; whole numbers lie in [0, 2^bits).
    """

    scale: float
    zero_point: int = 0
    bits: int = 8

    def __post_init__(self) -> None:
        _require(0 < self.scale < float("inf"), f"a scale must be positive, not {self.scale}")
        _require(4 <= self.bits <= 8, f"activations have 4 to 8 bits, not {self.bits}")
        _require(0 <= self.zero_point < 2**self.bits, f"zero point {self.zero_point} out of range")


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """How the tensors of the artifact are stored, by tensor name, and how the numbers between
    layers are held, by the layer or product that takes them."""

    tensors: dict[str, LayerStorage] = field(default_factory=dict)
    activations: dict[str, ActivationStorage] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a model comes from. Not needed to load it.

    Attributes:
        recipe: the steps that made it, in order, each a plain mapping.
        data: what it was trained on. parent: hash of the model it was made from, or "".
    """

    recipe: tuple[dict[str, Any], ...] = ()
    data: str = ""
    parent: str = ""
    license: str = ""


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    plain = _plain(config)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def from_dict(cls: type[T], data: Any, where: str = "") -> T:
    """The configuration `cls` from plain JSON values.

    Raises:
        ConfigError: an unknown key, a missing key or a wrong type, named with its path.
    """
    where = where or cls.__name__
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a table, found {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(fields)}")
    values = {key: _typed(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    needed = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ConfigError(f"{where}: {missing[0]!r} is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _typed(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, strictly: no strings for numbers, no truncation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _typed(next(arg for arg in args if arg is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast("type[Any]", hint), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, found {type(value).__name__}")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ConfigError(f"{where}: expected {len(args)} values, found {len(value)}")
        return tuple(_typed(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table, found {type(value).__name__}")
        return {str(k): _typed(args[1], item, f"{where}.{k}") for k, item in value.items()}
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: expected one of {', '.join(map(repr, args))}: {value!r}")
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is Any or type(value) is hint:
        return value
    raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
