"""Import of published checkpoints: the original .pth files and those of Hugging Face transformers.

featherglue ships and downloads no such weights; it reads files that the user has.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from featherglue.config import (
    ArchitectureConfig,
    AttentionConfig,
    Provenance,
    SuperGlueConfig,
    SuperPointConfig,
)
from featherglue.errors import ArtifactError, FeatherglueError, UsageError, short_reason
from featherglue.io.safetensors_file import parse_safetensors
from featherglue.models.model import Model
from featherglue.options import ProcessingConfig

State = dict[str, Tensor]

# Regular expressions from Hugging Face's tensor names to ours, applied in order.
_HF_SUPERPOINT = (
    (r"^encoder\.conv_blocks\.(\d)\.conv_([ab])", lambda m: f"conv{int(m[1]) + 1}{m[2]}"),
    (r"^keypoint_decoder\.conv_score_([ab])", r"convP\1"),
    (r"^descriptor_decoder\.conv_descriptor_([ab])", r"convD\1"),
)
_HF_SUPERGLUE = (
    (r"^gnn\.layers\.(\d+)\.attention\.self\.query", r"gnn.layers.\1.attn.proj.0"),
    (r"^gnn\.layers\.(\d+)\.attention\.self\.key", r"gnn.layers.\1.attn.proj.1"),
    (r"^gnn\.layers\.(\d+)\.attention\.self\.value", r"gnn.layers.\1.attn.proj.2"),
    (r"^gnn\.layers\.(\d+)\.attention\.output\.dense", r"gnn.layers.\1.attn.merge"),
    (r"^final_projection\.final_proj", "final_proj"),
    (
        r"^(keypoint_encoder\.encoder|gnn\.layers\.\d+\.mlp)\.(\d+)\.(linear\.|batch_norm\.)?(.*)$",
        lambda m: f"{m[1]}.{3 * int(m[2]) + (m[3] == 'batch_norm.')}.{m[4]}",
    ),
    (r"^keypoint_encoder\.", "kenc."),
)
_HEADS = 4  # as published; the shapes of the tensors do not show it
_PUBLISHED_PROCESSING = ProcessingConfig(
    max_keypoints=1024, subpixel=False, descriptor_sampling="published", sinkhorn_iterations=100
)


def load_published(
    superpoint: str | os.PathLike[str] | None, superglue: str | os.PathLike[str] | None
) -> Model:
    """The model of published checkpoint files. Sizes are inferred from the tensors.

    Args:
        superpoint: superpoint_v1.pth, or model.safetensors of a SuperPoint in transformers.
        superglue: superglue_outdoor.pth or superglue_indoor.pth, or model.safetensors of a
            SuperGlue in transformers. If `superpoint` is None, the SuperPoint in the latter is
            used.

    Raises:
        ArtifactError: a file is missing, damaged, or not such a checkpoint.
        UsageError: both are None.
    """
    if superpoint is None and superglue is None:
        raise UsageError("give superpoint, superglue, or both")
    try:
        point, glue = _states(superpoint, superglue)
        architecture = ArchitectureConfig(
            extractor=_superpoint_config(point) if point else None,
            matcher=_superglue_config(glue) if glue else None,
        )
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, FeatherglueError):
            raise
        given = " and ".join(str(path) for path in (superpoint, superglue) if path)
        raise ArtifactError(
            f"{given}: not a published checkpoint, or incomplete ({error})"
        ) from None
    built = Model.build(architecture)
    for network, tensors, source in (
        (built.extractor, point, superpoint or superglue),
        (built.matcher, glue, superglue),
    ):
        if network is not None and tensors is not None:
            counters = {k: v for k, v in network.state_dict().items() if "num_batches" in k}
            try:
                network.load_state_dict(counters | tensors)
            except RuntimeError as error:
                first = str(error).splitlines()[1].strip()
                raise ArtifactError(f"{source}: not a published checkpoint: {first}") from None
            network.eval()
    files = [Path(path).name for path in (superpoint, superglue) if path]
    return Model(
        extractor=built.extractor,
        matcher=built.matcher,
        processing=_PUBLISHED_PROCESSING,
        provenance=Provenance(
            recipe=({"step": "import-weights", "files": files},),
            license="that of the imported weights",
        ),
    )


def _states(
    superpoint: str | os.PathLike[str] | None, superglue: str | os.PathLike[str] | None
) -> tuple[State | None, State | None]:
    """The tensors of both networks under our names; a file of a SuperGlue may hold both."""
    point = _superpoint_state(read_state(superpoint), superpoint) if superpoint else None
    if superglue is None:
        return point, None
    state = read_state(superglue)
    detector = _without_prefix(state, "keypoint_detector.")
    if point is None and detector:
        point = _superpoint_state(detector, superglue)
    return point, _superglue_state(state, superglue)


def read_state(path: str | os.PathLike[str]) -> State:
    """Read the tensors of a .pth file or a .safetensors file. No code in the file is executed.

    Raises:
        ArtifactError: the file is missing, damaged, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            arrays = parse_safetensors(path.read_bytes())
            return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle protocol; a refusal says what is wrong
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        OSError,
        zipfile.BadZipFile,
    ) as error:
        raise ArtifactError(
            f"{path}: not a checkpoint, or damaged ({short_reason(error)})"
        ) from None
    except Exception as error:  # pickle.UnpicklingError and others, for objects other than tensors
        raise ArtifactError(
            f"{path}: not a checkpoint, or holds more than tensors ({type(error).__name__})"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ArtifactError(f"{path}: not a dictionary of tensors")
    return state


def _without_prefix(state: State, prefix: str) -> State:
    """The tensors whose names start with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _rename(state: State, rules: tuple[tuple[str, object], ...]) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)  # type: ignore[call-overload]
        renamed[new] = tensor.float()
    return renamed


def _superpoint_state(state: State, source: object) -> State:
    renamed = _rename(state, _HF_SUPERPOINT)
    if "conv1a.weight" not in renamed or "convDb.weight" not in renamed:
        raise ArtifactError(f"{source}: not a SuperPoint checkpoint (it has no conv1a)")
    return renamed


def _superglue_state(state: State, source: object) -> State:
    own = {k: v for k, v in state.items() if not k.startswith("keypoint_detector.")}
    hugging_face = any(name.startswith("keypoint_encoder.") for name in own)
    renamed = _rename(own, _HF_SUPERGLUE if hugging_face else ())
    if "bin_score" not in renamed or "final_proj.weight" not in renamed:
        raise ArtifactError(f"{source}: not a SuperGlue checkpoint (it has no final_proj)")
    kept = {k: v for k, v in renamed.items() if not k.endswith("num_batches_tracked")}
    if hugging_face:
        kept = {name: _interleave_heads(name, tensor) for name, tensor in kept.items()}
    return {k: v.squeeze(-1) if v.ndim == 3 else v for k, v in kept.items()}


def _interleave_heads(name: str, tensor: Tensor) -> Tensor:
    """Reorder channels from contiguous heads (Hugging Face) to interleaved ones (published)."""
    if ".attn.proj." in name:
        return tensor.view(_HEADS, -1, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
    if name.endswith(".attn.merge.weight"):
        return tensor.view(len(tensor), _HEADS, -1).transpose(1, 2).reshape(tensor.shape)
    return tensor


def _superpoint_config(state: State) -> SuperPointConfig:
    def width(name: str) -> int:
        return int(state[f"conv{name}.weight"].shape[0])

    return SuperPointConfig(
        channels=tuple(width(name) for name in ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b")),
        detector_channels=width("Pa"),
        descriptor_channels=width("Da"),
        descriptor_dim=width("Db"),
    )


def _superglue_config(state: State) -> SuperGlueConfig:
    """Sizes inferred from the tensors; heads and kinds of layers are the published ones."""
    width = int(state["final_proj.weight"].shape[0])
    encoder = sorted(
        (int(match[1]), int(tensor.shape[0]))
        for name, tensor in state.items()
        if (match := re.match(r"kenc\.encoder\.(\d+)\.weight$", name)) and tensor.ndim == 2
    )
    depth = 1 + max(
        int(match[1]) for name in state if (match := re.match(r"gnn\.layers\.(\d+)\.", name))
    )
    layers = tuple(
        AttentionConfig(
            kind="cross" if i % 2 else "self",
            heads=_HEADS,
            head_dim=int(state[f"gnn.layers.{i}.attn.proj.0.weight"].shape[0]) // _HEADS,
            hidden=int(state[f"gnn.layers.{i}.mlp.0.weight"].shape[0]),
        )
        for i in range(depth)
    )
    return SuperGlueConfig(
        descriptor_dim=width,
        width=width,
        keypoint_encoder=tuple(channels for _, channels in encoder[:-1]),
        layers=layers,
        batch_norm=any(name.endswith("running_mean") for name in state),
    )
