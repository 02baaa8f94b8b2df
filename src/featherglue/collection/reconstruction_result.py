"""The outcome of a reconstruction, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from featherglue.collection.adjustment import AdjustmentResult
from featherglue.collection.colmap_export import ExportResult
from featherglue.collection.mapping import ModelSummary


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """How far a step is.

    Attributes:
        step: such as "extracting".
        completed: number of units that are done.
        total: number of all units; None if it is unknown.
        unit: plural name of a unit.
    """

    step: str
    completed: int
    total: int | None
    unit: str


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The outcome of a reconstruction.

    Attributes:
        work: the work folder.
        num_photos: number of photographs.
        num_pairs: number of pairs that were chosen.
        num_searched: number of those that were matched with a search, because the first model
            lacked a photograph.
        skipped: why a photograph has no features, by its name.
        notes: what the user should know, such as the loss of a worker process.
        adjustment: outcome of the track adjustment; None if it was disabled.
        database: content of the database.
        model: the sparse model; None if it was disabled.
        seconds: time of each step.
    """

    work: Path
    num_photos: int
    num_pairs: int
    num_searched: int
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    adjustment: AdjustmentResult | None
    database: ExportResult
    model: ModelSummary | None
    seconds: Mapping[str, float] = field(default_factory=dict)


def facts(result: Reconstruction) -> dict[str, str]:
    """The numbers of a reconstruction, as text by their name."""
    database, model = result.database, result.model
    listed = {
        "photographs": f"{result.num_photos}, {len(result.skipped)} skipped",
        "pairs": f"{result.num_pairs} matched, {database.num_verified_pairs} verified",
        "matches": str(database.num_matches),
    }
    if database.num_cameras == 1 < database.num_images:
        listed["cameras"] = "one, shared by all photographs"
    else:
        listed["cameras"] = str(database.num_cameras)
    if result.num_searched:
        listed["searched"] = f"{result.num_searched} pairs of photographs that a first model lacked"
    adjusted = result.adjustment
    if adjusted is not None:
        listed["track adjustment"] = (
            f"{adjusted.num_retained} of {adjusted.num_matches} matches retained, keypoints moved "
            f"by {adjusted.median_displacement:.2f} px (median)"
        )
    if model is not None and model.folder is not None:
        listed |= {
            "registered": f"{model.num_registered} of {result.num_photos} photographs",
            "points": str(model.num_points),
            "track length": f"{model.mean_track_length:.2f} photographs (mean)",
            "reprojection error": f"{model.mean_reprojection_error:.2f} px (mean)",
        }
        if model.num_models > 1:
            listed["models"] = f"{model.num_models}; the figures are those of the largest"
    elif model is not None:
        overlap = database.num_verified_pairs > 0
        listed["registered"] = (
            "none: no pair could start a model; photographs from places further apart may help"
            if overlap
            else "none: the photographs do not overlap"
        )
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    return listed | {"time": f"{sum(result.seconds.values()):.1f} s: {seconds}"}
