"""A sparse 3D model from a folder of photographs."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featherglue.collection import colmap, incremental_mapping, matching_cascade, second_round
from featherglue.collection.adjustment import (
    AdjustmentResult,
    adjust_collection,
    write_retained_pairs,
)
from featherglue.collection.candidate_votes import Ranking
from featherglue.collection.colmap import check_camera
from featherglue.collection.colmap_export import (
    ExportResult,
    describe_database,
    export_colmap,
)
from featherglue.collection.extraction import SessionSource, extract_features
from featherglue.collection.mapping import (
    ModelSummary,
    map_database,
    model_fingerprint,
    summarize_model,
    write_points,
)
from featherglue.collection.numbered_keypoints import pixel_scale, stored_frames
from featherglue.collection.pair_selection import (
    NamePair,
    choose_pairs,
    needs_retrieval,
    write_pairs,
)
from featherglue.collection.photo_frames import image_names
from featherglue.collection.reconstruction_config import (
    ADJUSTED_FEATURES,
    ADJUSTED_MATCHES,
    ADJUSTED_PAIRS,
    DATABASE,
    FEATURES,
    MANIFEST,
    MATCHES,
    MODELS,
    PAGE,
    PAIRS,
    POINTS,
    ReconstructionConfig,
)
from featherglue.collection.reconstruction_result import Reconstruction, StepProgress, facts
from featherglue.collection.resumable import StepResult
from featherglue.collection.retrieval import find_vocabulary, similar_images
from featherglue.collection.second_round import note_search, noted_search, pairs_to_search
from featherglue.collection.store import Store
from featherglue.collection.store_matching import match_features
from featherglue.collection.summary_page import write_summary
from featherglue.collection.work_notes import WorkNotes
from featherglue.errors import ImageError, OutputError, StoredFileWarning, StoreError
from featherglue.fingerprint import file_state, fingerprint
from featherglue.io.locks import claimed_folder
from featherglue.io.pycolmap_ import require_pycolmap
from featherglue.options import SessionOptions, make_options

Result = TypeVar("Result")


def reconstruct(
    photos: str | os.PathLike[str],
    work: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "fast",
    options: SessionOptions | None = None,
    config: ReconstructionConfig | None = None,
    progress: Callable[[StepProgress], None] | None = None,
    **overrides: Any,
) -> Reconstruction:
    """Reconstruct the cameras and a sparse model of a folder of photographs.

    It extracts features, chooses pairs, matches them, adjusts the keypoints to their tracks,
    writes a verified COLMAP database, and runs COLMAP's incremental mapper. If the model lacks
    photographs, some of their pairs are matched again with a search, and all is mapped again (see
    `second_round`); with a setting of `search`, that does not happen. An interrupted run resumes.
    The work folder has `features.h5` and `matches.h5` in hloc's layout, `pairs.txt`,
    `database.db`, `sparse/0` (the largest model), `points.ply` and the summary `index.html`.

    Args:
        photos: folder of the photographs; its sub-folders count.
        work: folder of the results.
        model: name of a shipped model, or folder of a model.
        options: settings of the session; the size and the number of keypoints are those of
            `config`.
        config: settings of the reconstruction.
        progress: called after each unit of a step.
        **overrides: fields of `ReconstructionConfig`, which replace those of `config`.

    Raises:
        MissingExtraError: pycolmap, h5py or SciPy is not installed.
        UsageError: an invalid setting.
        ImageError: fewer than two photographs can be read.
        StoreError: the work folder has results of other settings, and not `overwrite`.
        OutputError: a file cannot be written, or another process works in `work`.
    """
    config = dataclasses.replace(config or ReconstructionConfig(), **overrides)
    require_pycolmap()
    check_camera(config.cameras)
    run = _Run(Path(photos), Path(work), _source(model, options, config), config, progress)
    with claimed_folder(work):
        return run()


def _source(
    model: str | os.PathLike[str], options: SessionOptions | None, config: ReconstructionConfig
) -> SessionSource:
    merged = make_options(options, max_keypoints=config.num_keypoints, resize=-1)
    return SessionSource(model=os.fspath(model), options=merged)


class _Run:
    """The steps of one reconstruction."""

    def __init__(
        self,
        photos: Path,
        work: Path,
        source: SessionSource,
        config: ReconstructionConfig,
        progress: Callable[[StepProgress], None] | None,
    ) -> None:
        self.photos, self.work, self.source, self.config = photos, work, source, config
        self._notes = WorkNotes(work / MANIFEST)
        self._progress = progress
        self._seconds: dict[str, float] = {}

    def __call__(self) -> Reconstruction:
        names = image_names(self.photos)
        if needs_retrieval(self.config.pairs, len(names), self.config.loop_closure):
            find_vocabulary(self.source.model)  # fails before the long work
        features = self._timed("features", functools.partial(self._extract, names))
        skipped = {key[0]: reason for key, reason in features.failures.items()}
        usable = [name for name in names if name not in skipped]
        if len(usable) < 2:
            raise ImageError(
                f"{self.photos}: {len(usable)} of {len(names)} photographs can be read; a "
                "reconstruction needs two"
                + "".join(f"; {reason}" for reason in list(skipped.values())[:1])
            )
        pairs = self._timed("pairs", functools.partial(self._choose_pairs, usable))
        searched = noted_search(self._notes, self._search_state(pairs), pairs)
        matches, adjusted, exported, summary = self._model(pairs, searched or [])
        if searched is None and summary is not None:
            searched = pairs_to_search(self.source, summary, self.work / MATCHES, pairs)
            first = summary.num_registered
            note_search(self._notes, self._search_state(pairs), searched)
            if searched:
                matches, adjusted, exported, summary = self._model(pairs, searched)
            if summary is not None and summary.num_registered < first:
                searched = []
                note_search(self._notes, self._search_state(pairs), searched)
                matches, adjusted, exported, summary = self._model(pairs, searched)
        result = Reconstruction(
            work=self.work,
            num_photos=len(names),
            num_pairs=len(pairs),
            num_searched=len(searched or ()),
            skipped=skipped,
            notes=(
                *features.notes,
                *matches.notes,
                *(adjusted.notes if adjusted is not None else ()),
                *(f"{' and '.join(key)}: {reason}" for key, reason in matches.failures.items()),
                *(f"{name}: COLMAP cannot read this image" for name in exported.unreadable),
            ),
            adjustment=adjusted,
            database=exported,
            model=summary,
            seconds=self._seconds,
        )
        write_summary(self.work / PAGE, facts(result), summary, skipped)
        return result

    def _model(
        self, pairs: list[NamePair], searched: list[NamePair]
    ) -> tuple[StepResult, AdjustmentResult | None, ExportResult, ModelSummary | None]:
        """All steps from the matches to the model.

        Args:
            searched: the pairs that are matched with a search.
        """
        return (
            self._timed("matches", functools.partial(self._match, pairs, searched)),
            self._timed("adjustment", self._adjust) if self.config.adjust else None,
            self._timed("database", self._export),
            self._timed("model", self._map) if self.config.map else None,
        )

    def _search_state(self, pairs: list[NamePair]) -> str:
        """Fingerprint of what determines the first model."""
        return fingerprint(
            pairs,
            file_state(self.work / FEATURES)[1:],
            repr(self.source.options),
            dataclasses.asdict(self.config.cameras),
            [self.config.cascade, self.config.adjust, self.config.refine_cameras],
            [module.VERSION for module in (second_round, colmap, incremental_mapping)],
            matching_cascade.VERSION,
        )

    def _timed(self, step: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self._seconds[step] = self._seconds.get(step, 0) + time.perf_counter() - start
        return result

    def _report(self, step: str, unit: str, completed: int, total: int | None) -> None:
        if self._progress is not None:
            self._progress(StepProgress(step=step, completed=completed, total=total, unit=unit))

    def _extract(self, names: list[str]) -> StepResult:
        return extract_features(
            self.photos,
            self.work / FEATURES,
            names,
            self.source,
            max_size=self.config.max_size,
            masks=self.config.masks,
            workers=self.config.workers,
            ray=self.config.ray,
            overwrite=self.config.overwrite,
            progress=functools.partial(self._report, "extracting", "photos"),
        )

    def _choose_pairs(self, names: list[str]) -> list[NamePair]:
        pairs = choose_pairs(
            self.config.pairs,
            self.photos,
            names,
            pair_file=self.config.pair_file,
            overlap=self.config.overlap,
            num_neighbors=self.config.num_neighbors,
            loop_closure=self.config.loop_closure,
            similar=functools.partial(self._similar, names),
        )
        write_pairs(self.work / PAIRS, pairs)
        return pairs

    def _similar(self, names: list[str], queries: NDArray[np.int64] | None) -> Ranking:
        return similar_images(
            self.work / FEATURES,
            self.work,
            self.source.model,
            names,
            self.config.num_neighbors,
            queries,
            workers=self.config.workers,
            ray=self.config.ray,
            progress=lambda step, unit: functools.partial(self._report, step, unit),
        )

    def _match(self, pairs: list[NamePair], searched: list[NamePair]) -> StepResult:
        return match_features(
            self.photos,
            self.work / FEATURES,
            self.work / MATCHES,
            pairs,
            self.source,
            cascade=self.config.cascade,
            searched=searched,
            masks=self.config.masks,
            workers=self.config.workers,
            ray=self.config.ray,
            overwrite=self.config.overwrite,
            progress=functools.partial(
                self._report, "searching" if searched else "matching", "pairs"
            ),
        )

    def _adjust(self) -> AdjustmentResult:
        result = adjust_collection(
            self.photos,
            self.work / FEATURES,
            self.work / MATCHES,
            self.work / ADJUSTED_FEATURES,
            self.work / ADJUSTED_MATCHES,
            workers=self.config.workers,
            ray=self.config.ray,
            overwrite=True,
            progress=functools.partial(self._report, "adjusting", "pairs"),
        )
        write_retained_pairs(result.match_file, self.work / ADJUSTED_PAIRS)
        return result

    def _export(self) -> ExportResult:
        features = self.work / (ADJUSTED_FEATURES if self.config.adjust else FEATURES)
        matches = self.work / (ADJUSTED_MATCHES if self.config.adjust else MATCHES)
        database = self.work / DATABASE
        inputs = [file_state(path)[1:] for path in (features, matches)]
        state = fingerprint(inputs, dataclasses.asdict(self.config.cameras), colmap.VERSION)
        with Store(features) as store:
            names = [key[0] for key in store.sorted_keys()]
        describe = functools.partial(describe_database, database, names)
        found = self._stored("database", state, database, describe)
        if found is None:
            self._check_own("database", database)
            self._notes.write("database", "unfinished")
            self._report("verifying", "", 0, None)
            export_colmap(
                self.photos,
                features,
                matches,
                database,
                cameras=self.config.cameras,
                num_threads=self.config.workers,
                overwrite=True,
            )
            self._notes.write("database", state)
            found = describe()
        return found

    def _map(self) -> ModelSummary:
        database, models = self.work / DATABASE, self.work / MODELS
        state = fingerprint(
            "model", incremental_mapping.VERSION, self._notes.read().get("database")
        )
        if not self.config.refine_cameras:
            state = fingerprint(state, "calibrated cameras")
        summarize = functools.partial(summarize_model, database, models)
        self._check_unchanged(models)
        current = not self.config.overwrite or self._is_written(models)
        summary = self._stored("model", state, models, summarize) if current else None
        if summary is None:
            self._check_own("model", models)
            self._notes.write("model", "unfinished")
            with Store(self.work / FEATURES) as store:
                frames = stored_frames(store)
            total = len(frames)
            map_database(
                database,
                self.photos,
                models,
                num_threads=self.config.workers,
                refine_cameras=self.config.refine_cameras,
                pixel_scale=pixel_scale(frames),
                registered=lambda count: self._report(
                    "mapping", "photos", min(count, total), total
                ),
            )
            self._notes.write("model_files", model_fingerprint(models))
            self._notes.write("model", state)
            summary = summarize()
        if summary.folder is not None:
            write_points(summary.folder, self.work / POINTS)
        return summary

    def _stored(
        self, step: str, state: str, output: Path, read: Callable[[], Result]
    ) -> Result | None:
        """The result of a step that was made from these inputs; None if it must be made."""
        if not output.exists() or self._notes.read().get(step) != state:
            return None
        try:
            return read()
        except StoreError as error:
            warnings.warn(f"{error}; it is made again", StoredFileWarning, stacklevel=2)
            return None

    def _check_unchanged(self, models: Path) -> None:
        """Raise StoreError if the models are not those that were written: COLMAP may crash."""
        if self.config.overwrite or not models.is_dir():
            return
        finished = self._notes.read().get("model", "unfinished") != "unfinished"
        if finished and not self._is_written(models):
            raise StoreError(
                f"{models}: was changed or damaged since it was written; remove it to make it "
                "again, or use `overwrite`"
            )

    def _is_written(self, models: Path) -> bool:
        """Whether the models are those that a run wrote; true for runs of earlier versions."""
        written = self._notes.read().get("model_files")
        return written is None or written == model_fingerprint(models)

    def _check_own(self, step: str, output: Path) -> None:
        """Raise OutputError if another program wrote the output of a step."""
        if output.exists() and not (self.config.overwrite or step in self._notes.read()):
            raise OutputError(
                f"{output}: exists, and no run of this work folder wrote it; use another "
                "folder, or `overwrite`"
            )
