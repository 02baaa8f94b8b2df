"""Artifacts: folders with config.json, model.safetensors and a model card.

config.json holds `format`, `version`, the SHA-256 `hash` of model.safetensors, and the blocks
`architecture`, `processing`, `storage` and `provenance`. Reading is strict: unknown keys, newer
versions, damaged weights and wrong shapes raise.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from featherglue.artifact.checks import check_activations, check_tensors
from featherglue.artifact.encodings import Quantization
from featherglue.artifact.folder import CARD, CONFIG, FORMAT, WEIGHTS, replace_folder
from featherglue.artifact.layers import is_parameter, tensor_shapes
from featherglue.artifact.model_card import model_card
from featherglue.artifact.tensors import read_tensors, write_tensors
from featherglue.config import (
    ArchitectureConfig,
    LayerStorage,
    Provenance,
    StorageConfig,
    from_dict,
    to_dict,
)
from featherglue.errors import ArtifactError, ConfigError
from featherglue.fingerprint import fingerprint
from featherglue.io.json import read_json
from featherglue.io.safetensors_file import parse_safetensors
from featherglue.options import ProcessingConfig

VERSION = 3
"""Version of the format. Versions 1 and 2 are those of release 0.1."""
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Artifact:
    """A model as NumPy arrays, without any framework.

    Attributes:
        architecture: sizes of the networks.
        processing: default settings of extraction and matching.
        arrays: all tensors by name, float32; see `layers.tensor_shapes`. A quantized tensor is
            held dequantized.
        quantization: codes of the quantized weights, and quantized activations.
        storage: how model.safetensors holds the tensors; set by `load_artifact`.
        provenance: recipe, training data and license.
        hash: SHA-256 of model.safetensors; "" before the artifact is saved.
        folder: folder that it was loaded from; None before it is saved.
    """

    architecture: ArchitectureConfig
    processing: ProcessingConfig
    arrays: Arrays
    quantization: Quantization = field(default_factory=Quantization)
    storage: StorageConfig = field(default_factory=StorageConfig)
    provenance: Provenance = field(default_factory=Provenance)
    hash: str = ""
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Name of the folder; "" before the artifact is saved."""
        return self.folder.name if self.folder else ""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the networks: weights, architecture and quantization of activations.

        "" before the artifact is saved.
        """
        if not self.hash:
            return ""
        architecture = to_dict(self.architecture)
        if self.architecture.extractor and not self.architecture.extractor.context_channels:
            del architecture["extractor"][
                "context_channels"
            ]  # as in fingerprints of models without the branch
        activations = {name: to_dict(a) for name, a in self.storage.activations.items()}
        return fingerprint(self.hash, architecture, activations)

    @property
    def num_parameters(self) -> int:
        """Number of learned parameters."""
        return sum(array.size for name, array in self.arrays.items() if is_parameter(name))

    @property
    def num_nonzero(self) -> int:
        """Number of learned parameters that are not 0."""
        return sum(
            int(np.count_nonzero(array))
            for name, array in self.arrays.items()
            if is_parameter(name)
        )

    def file_sizes(self) -> dict[str, int]:
        """Size of each file of the folder, bytes, by file name; empty before it is saved."""
        if self.folder is None:
            return {}
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        return {path.name: path.stat().st_size for path in files}


def load_artifact(folder: str | os.PathLike[str]) -> Artifact:
    """Read an artifact.

    Raises:
        ArtifactError: the folder is missing or not an artifact; the artifact is damaged or of a
            newer version; or the weights do not fit the architecture.
    """
    folder = Path(folder)
    header = _read_config(folder)
    if header["version"] < 3:
        header["processing"] = _current_settings(header["processing"])
    try:
        architecture = from_dict(ArchitectureConfig, header["architecture"], "architecture")
        processing = from_dict(ProcessingConfig, header["processing"], "processing")
        storage = from_dict(StorageConfig, header["storage"], "storage")
        provenance = from_dict(Provenance, header.get("provenance", {}), "provenance")
    except ConfigError as error:
        raise ArtifactError(f"{folder / CONFIG}: {error}") from None
    stored = _read_weights(folder / WEIGHTS, header["hash"])
    try:
        arrays, quantization = read_tensors(stored, storage, tensor_shapes(architecture))
        check_tensors(arrays, architecture)
        check_activations(architecture, storage.activations)
    except (ArtifactError, ConfigError) as error:
        raise ArtifactError(f"{folder / WEIGHTS}: {error}") from None
    return Artifact(
        architecture=architecture,
        processing=processing,
        arrays=arrays,
        quantization=quantization,
        storage=storage,
        provenance=provenance,
        hash=header["hash"],
        folder=folder,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        header = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        reason = "it has no config.json" if folder.is_dir() else "no such folder"
        raise ArtifactError(f"{folder}: not a featherglue model ({reason})") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not the configuration of a featherglue model")
    version = header.get("version")
    if type(version) is not int or version > VERSION:
        raise ArtifactError(
            f"{path}: format version {version!r:.40}; this featherglue reads versions up to "
            f"{VERSION}: upgrade featherglue"
        )
    required = {"format", "version", "hash", "architecture", "processing", "storage"}
    wrong = sorted((set(header) - {"provenance"}) ^ required)
    if wrong:
        raise ArtifactError(f"{path}: unknown or missing key {wrong[0]!r}")
    return header


# Names of settings in release 0.1, and today.
_RENAMED = {
    "surplus_threshold": "high_keypoint_threshold",
    "surplus_after": "high_threshold_after",
}


def _current_settings(processing: Any) -> Any:
    """Convert the `processing` block of release 0.1, where a consensus of 0 meant none."""
    if not isinstance(processing, dict):
        return processing
    renamed = {_RENAMED.get(key, key): value for key, value in processing.items()}
    return renamed | ({"consensus": None} if renamed.get("consensus") == 0 else {})


def _read_weights(path: Path, expected: str) -> Arrays:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != expected:
        raise ArtifactError(f"{path}: damaged, or not the weights of config.json")
    try:
        return parse_safetensors(data)
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from None


def save_artifact(
    folder: str | os.PathLike[str],
    artifact: Artifact,
    dtype: Literal["float32", "float16"] = "float32",
) -> Artifact:
    """Write an artifact, atomically. An artifact in `folder` is replaced with all its files.

    Args:
        folder: folder to write.
        artifact: the artifact.
        dtype: number format of the weights that are not quantized; float16 rounds them.

    Returns:
        The artifact as `load_artifact` reads it.

    Raises:
        ArtifactError: the weights do not fit the architecture.
        ConfigError: a quantized tensor was changed after its quantization.
        OutputError: the folder cannot be written, or exists and is not an artifact.
    """
    folder = Path(folder)
    try:
        check_tensors(artifact.arrays, artifact.architecture)
        check_activations(artifact.architecture, artifact.quantization.activations)
    except ArtifactError as error:
        raise ArtifactError(f"this model: {error}") from None
    stored, storage = write_tensors(artifact.arrays, artifact.quantization, dtype)
    weights = safetensors.numpy.save(stored)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "hash": hashlib.sha256(weights).hexdigest(),
        "architecture": to_dict(artifact.architecture),
        "processing": to_dict(artifact.processing),
        "storage": _storage_dict(storage),
        "provenance": to_dict(artifact.provenance),
    }
    files = {
        WEIGHTS: weights,
        CONFIG: (json.dumps(header, indent=1, ensure_ascii=False) + "\n").encode(),
        CARD: _card(folder.name, artifact, len(weights)).encode(),
    }
    replace_folder(folder, files)
    return load_artifact(folder)


def _storage_dict(storage: StorageConfig) -> dict[str, Any]:
    """The `storage` block; defaults are left out, except dtype and sparsity."""
    default = to_dict(LayerStorage())
    always = ("dtype", "sparsity")
    tensors = {
        name: {k: v for k, v in to_dict(layer).items() if k in always or v != default[k]}
        for name, layer in storage.tensors.items()
    }
    activations = {name: to_dict(a) for name, a in storage.activations.items()}
    return {"tensors": tensors} | ({"activations": activations} if activations else {})


def _card(name: str, artifact: Artifact, weight_bytes: int) -> str:
    return model_card(
        name,
        artifact.architecture,
        artifact.provenance,
        num_parameters=artifact.num_parameters,
        weight_bytes=weight_bytes,
    )
