"""The settings of a reconstruction, and the files of its work folder."""

from __future__ import annotations

import os
from dataclasses import dataclass

from featherglue.collection.colmap import CameraMode, CameraOptions
from featherglue.collection.pair_selection import (
    DEFAULT_NUM_NEIGHBORS,
    DEFAULT_OVERLAP,
    PairMethod,
    check_choice,
)
from featherglue.errors import ConfigError

MAX_SIZE, NUM_KEYPOINTS = 1024, 2048
FEATURES, PAIRS, MATCHES = "features.h5", "pairs.txt", "matches.h5"
ADJUSTED_FEATURES, ADJUSTED_MATCHES = "adjusted_features.h5", "adjusted_matches.h5"
ADJUSTED_PAIRS = "adjusted_pairs.txt"
DATABASE, MODELS, POINTS, PAGE = "database.db", "sparse", "points.ply", "index.html"
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Settings of a reconstruction.

    Attributes:
        pairs: which images are matched: all pairs, each image with the following ones, with the
            most similar ones (retrieval), with the nearest ones by GPS (spatial), or the pairs of a
            file. "auto" takes all pairs of up to 200 images, and the most similar ones of more.
        pair_file: the list of pairs="file".
        overlap: number of following images of pairs="sequential".
        num_neighbors: number of nearest images of pairs="retrieval" and "spatial", and of a loop
            closure.
        loop_closure: add the most similar images to every tenth image of pairs="sequential".
        max_size: px, larger photographs are shrunk to this longest side; None keeps the size.
        num_keypoints: maximum number of keypoints of a photograph.
        masks: folder of masks, see `extract_features`; None without masks.
        camera_mode, camera_model, camera_params: see `CameraOptions`.
        refine_cameras: whether the mapper refines focal lengths and distortion. False keeps
            `camera_params`, for calibrated cameras; all photographs must have the same size.
        cascade: whether to match easy pairs by their descriptors, see `match_features`.
        adjust: whether to adjust the keypoints to their tracks.
        map: whether to make the sparse model.
        workers: maximum number of processes, and of threads of COLMAP; None takes one per core.
        ray: address of a Ray cluster for extraction, retrieval, matching and alignment, such as
            "auto" or "host:port". None works on this machine.
        overwrite: replace results in the work folder that were made with other settings.

    Raises:
        ConfigError: a value out of bounds, or values that exclude each other.
    """

    pairs: PairMethod = "auto"
    pair_file: str | os.PathLike[str] | None = None
    overlap: int = DEFAULT_OVERLAP
    num_neighbors: int = DEFAULT_NUM_NEIGHBORS
    loop_closure: bool = False
    max_size: int | None = MAX_SIZE
    num_keypoints: int = NUM_KEYPOINTS
    masks: str | os.PathLike[str] | None = None
    camera_mode: CameraMode = "auto"
    camera_model: str = "SIMPLE_RADIAL"
    camera_params: str = ""
    refine_cameras: bool = True
    cascade: bool = True
    adjust: bool = True
    map: bool = True
    workers: int | None = None
    ray: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_choice(self.pairs, self.pair_file, self.loop_closure)
        for name, low in (
            ("overlap", 1),
            ("num_neighbors", 1),
            ("num_keypoints", 1),
            ("workers", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name} must be at least {low}, not {value}")
        if not (self.refine_cameras or self.camera_params):
            raise ConfigError("refine_cameras=False needs camera_params")
        if not (self.refine_cameras or self.map):
            raise ConfigError("refine_cameras=False has no effect with map=False")
        if self.max_size is not None and self.max_size < 32:
            raise ConfigError(f"max_size must be at least 32, not {self.max_size}")

    @property
    def cameras(self) -> CameraOptions:
        """The cameras of the database."""
        return CameraOptions(
            mode=self.camera_mode, model=self.camera_model, params=self.camera_params
        )
