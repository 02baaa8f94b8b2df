"""Configurations stored in an artifact: architecture, storage and provenance.

`to_dict` converts a configuration to plain JSON values. `from_dict` converts back, strictly:
unknown keys, missing keys and wrong types raise.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from featherglue.errors import ConfigError, did_you_mean

T = TypeVar("T")

LayerKind = Literal["self", "cross"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class SuperPointConfig:
    """Sizes of a SuperPoint network (DeTone et al. 2018). The defaults are the published ones.

    Attributes:
        channels: output channels of conv1a, conv1b, conv2a, conv2b, conv3a, conv3b, conv4a, conv4b.
        detector_channels: output channels of convPa.
        descriptor_channels: output channels of convDa.
        descriptor_dim: output channels of convDb, the descriptor width D.
        batch_norm: whether batch normalization follows each convolution but convPb and convDb.
        stem: stride of conv1a. 1 is the published network. 2 has a kernel of 4×4 pixels and no
            pooling after conv1b, so that no layer runs at full resolution.
        context_channels: output channels of convC1a, convC1b, convC2a, convC2b, …: the context
            branch, which widens the receptive field of the descriptors. Two convolutions work at
            1/16 of the image size, the next two at 1/32, and so on. Empty, as published, for none.
    """

    channels: tuple[int, ...] = (64, 64, 64, 64, 128, 128, 128, 128)
    detector_channels: int = 256
    descriptor_channels: int = 256
    descriptor_dim: int = 256
    batch_norm: bool = False
    stem: int = 1
    context_channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require(self.stem in (1, 2), f"stem must be 1 or 2, not {self.stem}")
        _require(
            len(self.channels) == 8,
            f"channels must hold 8 widths, for conv1a to conv4b, not {len(self.channels)}",
        )
        widths = (
            *self.channels,
            self.detector_channels,
            self.descriptor_channels,
            self.descriptor_dim,
            *self.context_channels,
        )
        _require(
            len(self.context_channels) in (0, 2, 4, 6),
            "context_channels must hold 2 widths for each of at most 3 levels, not "
            f"{len(self.context_channels)} widths",
        )
        _require(all(width >= 1 for width in widths), "all widths of SuperPoint must be at least 1")


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Sizes of one attention layer of SuperGlue's graph neural network.

    Attributes:
        kind: "self" attends within an image, "cross" to the other image.
        heads: number of attention heads.
        head_dim: width of a head.
        hidden: width of the hidden layer of the message MLP.
    """

    kind: LayerKind
    heads: int = 4
    head_dim: int = 64
    hidden: int = 512

    def __post_init__(self) -> None:
        _require(
            self.kind in ("self", "cross"), f"kind must be 'self' or 'cross', not {self.kind!r}"
        )
        _require(
            min(self.heads, self.head_dim, self.hidden) >= 1,
            "heads, head_dim and hidden must be at least 1",
        )


def _published_layers() -> tuple[AttentionConfig, ...]:
    return (AttentionConfig(kind="self"), AttentionConfig(kind="cross")) * 9


@dataclass(frozen=True, kw_only=True)
class SuperGlueConfig:
    """Sizes of a SuperGlue network (Sarlin et al. 2020). The defaults are the published ones.

    Attributes:
        descriptor_dim: descriptor width D. If it differs from `width`, a linear layer projects
            the descriptors.
        width: feature width of the graph neural network.
        keypoint_encoder: hidden widths of the MLP that encodes (x, y, score).
        layers: the attention layers, in order.
        batch_norm: whether the MLPs have batch normalization.
    """

    descriptor_dim: int = 256
    width: int = 256
    keypoint_encoder: tuple[int, ...] = (32, 64, 128, 256)
    layers: tuple[AttentionConfig, ...] = field(default_factory=_published_layers)
    batch_norm: bool = True

    def __post_init__(self) -> None:
        widths = (self.descriptor_dim, self.width, *self.keypoint_encoder)
        _require(all(width >= 1 for width in widths), "all widths of SuperGlue must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """Sizes of a model: of an extractor, a matcher, or both."""

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
                "descriptor_dim of the extractor and of the matcher must be the same, not "
                f"{self.extractor.descriptor_dim} and {self.matcher.descriptor_dim}",
            )


@dataclass(frozen=True, kw_only=True)
class LayerStorage:
    """Storage of one tensor.

    Attributes:
        scheme: "float"; "linear", integers with scales and zero points (Jacob et al. 2018); or
            "codebook", indices into lists of values (Han et al. 2016).
        dtype: number format of floats, or of the values of a codebook.
        bits: number of bits of an integer or index; 0 for floats.
        groups: number of scales or codebooks. The first axis is divided evenly among them.
        sparsity: fraction of the elements that are 0.
        positions: "all" stores all elements; "mask" and "runs" store the non-zero elements with a
            bit mask or with run lengths.
        coding: coding of integers and indices, "packed" or "huffman"; "plain" for floats.
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
        _require(
            low <= self.bits <= high,
            f"bits of {self.scheme} storage must lie in [{low}, {high}], not {self.bits}",
        )
        _require(self.groups >= 1, f"groups must be at least 1, not {self.groups}")
        _require(
            coded == (self.coding != "plain"),
            f"coding cannot be {self.coding!r} for {self.scheme} storage",
        )


@dataclass(frozen=True, kw_only=True)
class ActivationStorage:
    """Quantization of an activation x: q = round(x / scale) + zero_point, clipped to the bits.

    Attributes:
        scale: step between two quantized values, above 0.
        zero_point: the integer that stands for 0, in [0, 2^bits).
        bits: number of bits of q, 4 to 8. q lies in [0, 2^bits).
    """

    scale: float
    zero_point: int = 0
    bits: int = 8

    def __post_init__(self) -> None:
        _require(
            0 < self.scale < float("inf"), f"scale must be finite and above 0, not {self.scale}"
        )
        _require(4 <= self.bits <= 8, f"bits of an activation must lie in [4, 8], not {self.bits}")
        _require(
            0 <= self.zero_point < 2**self.bits,
            f"zero_point must lie in [0, {2**self.bits}), not {self.zero_point}",
        )


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Storage of all tensors and quantization of activations.

    Attributes:
        tensors: by tensor name.
        activations: by activation name; see `artifact.layers.activation_names`.
    """

    tensors: dict[str, LayerStorage] = field(default_factory=dict)
    activations: dict[str, ActivationStorage] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Origin of a model. Loading does not need it.

    Attributes:
        recipe: the steps of training and compression in order, with their settings.
        data: description of the training data.
        parent: hash of the weights of the model that it was derived from, or "".
        license: license of the weights, or "".
    """

    recipe: tuple[dict[str, Any], ...] = ()
    data: str = ""
    parent: str = ""
    license: str = ""


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a configuration to plain JSON values."""
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
    """Convert plain JSON values to the configuration class `cls`.

    Args:
        where: path of the values, which error messages begin with.

    Raises:
        ConfigError: a key is unknown or missing, or a value has a wrong type or range.
    """
    where = where or cls.__name__
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a table, found {type(data).__name__}")
    hints = _type_hints(typing.cast("typing.Hashable", cls))
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        hint = did_you_mean(unknown[0], fields)
        raise ConfigError(
            f"{where}: unknown key {_shown(unknown[0])}{hint}; known: {', '.join(fields)}"
        )
    values = {key: _typed(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{where}: {missing[0]!r} is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


@functools.cache
def _type_hints(cls: Any) -> dict[str, Any]:
    """The evaluated annotations of a class. A model file has hundreds of values of one class."""
    return typing.get_type_hints(cls)


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Convert a value to the type `hint`, without conversions between numbers and strings."""
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
            raise ConfigError(
                f"{where}: expected one of {', '.join(map(repr, args))}: {_shown(value)}"
            )
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not -sys.float_info.max <= value <= sys.float_info.max:
            raise ConfigError(f"{where}: must be finite")
        return float(value)
    if hint is Any or type(value) is hint:
        return value
    raise ConfigError(f"{where}: expected {hint.__name__}, found {_shown(value)}")


def _shown(value: Any) -> str:
    """The start of a value, for messages."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
