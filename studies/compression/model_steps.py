"""Making of the models of the study, and their accuracy: resumable steps."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from featherglue.artifact.format import load_artifact
from featherglue.compression.recipe import Recipe
from featherglue.compression.step_types import FinetuneConfig
from featherglue.compression.steps import fold
from featherglue.config import to_dict
from featherglue.errors import ConfigError
from featherglue.evaluation import HomographySuite
from featherglue.fingerprint import file_fingerprint, fingerprint
from featherglue.io.image import list_images, read_evenly_spaced
from featherglue.io.toml import read_toml
from featherglue.models.model import Model
from featherglue.sensitivity.results import Scan
from featherglue.train.engine.devices import choose_device
from studies.compression import experiments, measurements, scanning
from studies.compression.continuation import (
    Start,
    finished_model,
    first_part,
    num_steps_before_tuning,
)
from studies.compression.experiments import Experiment
from studies.compression.journal import Journal
from studies.compression.model_making import Tuning, make_model
from studies.compression.results_file import MACS_TOLERANCE, kept_rows


class ModelSteps:
    """The models of one run of the study.

    Args:
        options: options of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work = Path(options.work)
        self.journal = Journal(self.work / "journal.json")
        self.artifact = source = load_artifact(options.model)
        self.original = Model.from_artifact(source)
        self.dense, self.hash = fold(self.original), source.hash
        self.suite = HomographySuite(folder=options.val, pair_file=options.list)
        self.pairs = len(self.suite.pairs()[: options.num_pairs])
        self.common = {"dense": source.hash, "pairs": self.pairs, "val": options.val.name}
        self.source = {**self.common, "processing": to_dict(source.processing)}
        # The inputs of accuracies, and those of models and explanations.
        self.evaluated_on = {
            **self.common,
            "list": file_fingerprint(options.list),
            "folder": str(options.val),
        }
        self.calibrated_on = {
            "images": str(options.images),
            "calibration": options.num_calibration_images,
            "size": list(options.size),
        }
        self.selected = experiments.select_experiments(options.only)
        if options.keep_rows:
            self.selected = []
        self.recipes: dict[str, Recipe] = {}
        self._calibration: list[Any] = []

    def _applicable(self) -> list[Experiment]:
        """Return the experiments whose recipes fit the model. Raises if a named one does not."""
        found = []
        for experiment in self.selected:
            recipe = self._recipe(experiment, None)
            try:
                recipe.check(self.dense.architecture)
            except ConfigError as error:
                if self.options.only:
                    raise
                print(f"{experiment.title}: skipped, because the recipe does not fit ({error})")
            else:
                found.append(experiment)
        return found

    def _check_inputs(self) -> None:
        """Raise the errors that would occur later."""
        list_images(self.options.images, recursive=True)
        scanning.read_scans(self.dense, self.options.scan_from)
        if self._tunes:
            tuning = self._tuning()
            if not all((self.work / e.name / "after").exists() for e in self.selected):
                choose_device(tuning.device)
            for experiment in self.selected:
                for step in self._recipe(experiment, None).steps:
                    if isinstance(step, FinetuneConfig):
                        tuning.stage(step, 1)

    @property
    def _tunes(self) -> bool:
        return bool(self.options.minutes > 0 or self.options.steps > 0)

    def _tuning(self) -> Tuning:
        options = self.options
        return Tuning(
            teacher=self.work / "dense",
            images=options.images,
            settings=read_toml(options.finetune),
            minutes=options.minutes,
            steps=options.steps,
            device=options.device,
        )

    def calibration(self) -> list[Any]:
        """Return calibration photographs, evenly spread over the folder."""
        if not self._calibration:
            self._calibration = read_evenly_spaced(
                self.options.images, self.options.num_calibration_images
            )
        return self._calibration

    def _recipe(self, experiment: Experiment, found: Scan | None) -> Recipe:
        folder, architecture = self.options.recipes, self.dense.architecture
        return experiments.load_recipe(folder, experiment, architecture, found)

    def _save_dense(self) -> Path:
        folder = self.work / "dense"
        self.journal.step("dense, saved", self.source, lambda: self.dense.save(folder).hash, folder)
        return folder

    def _dense_row(self) -> dict[str, Any]:
        """Return the row of the dense model; one that is stored is kept with `--only`."""
        folder = self._save_dense()
        kept = kept_rows(self.options.output, self.common).get(experiments.DENSE.name)
        if kept and self.options.only and "dense, evaluated" not in self.journal.steps:
            return kept
        measured = self._accuracy("dense, evaluated", folder)
        facts = measurements.sizes(folder, folder)
        dense = experiments.DENSE
        both = {"before": measured, "after": measured}
        chosen = measurements.threshold(folder)
        origin = {"accuracy": self.journal.origin("dense, evaluated")}
        named = {"name": dense.name, "title": dense.title}
        return {**named, **both, **facts, **chosen, "ms": {}, "origin": origin}

    def _make(self, experiment: Experiment) -> tuple[Path, Path | None]:
        """Make the models and return their folders before and after fine-tuning."""
        print(experiment.title, flush=True)
        before = self.work / experiment.name / "before"
        self._make_model(experiment, "made", before, None, self._start(experiment, "before"))
        start = self._start(experiment)
        if not self._tunes and start is None:
            print("  not fine-tuned (--minutes 0)", flush=True)
            return before, None
        after = self.work / experiment.name / "after"
        self._make_model(experiment, "fine-tuned", after, self._tuning(), start)
        return before, after

    def _start(self, experiment: Experiment, state: str = "after") -> Start | None:
        """Return the model of another experiment from which the recipe continues, or None.

        Args:
            experiment: experiment of the recipe.
            state: "after" fine-tuning, or "before" it.
        """
        found = first_part(self.recipes[experiment.name], self.options.recipes)
        if found is None:
            return None
        name, num_steps = found[0].name, found[1]
        folder = self.work / name / state
        step = f"{name}, fine-tuned" if state == "after" else f"{name}, made"
        row = kept_rows(self.options.output, self.common).get(name, {})
        if step in self.journal.steps and folder.is_dir():
            # An experiment that is not run again has its own settings of fine-tuning.
            known = {} if found[0] in self.selected else row.get("finetuning", {})
            tuned = {key: known[key] for key in ("minutes", "steps", "device") if key in known}
            origin = self.journal.origin(step)
            return Start(folder=folder, num_steps=num_steps, finetuning=tuned, origin=origin)
        if state == "before":
            return None
        return finished_model(row, self.options.finished / name, self.artifact, num_steps)

    def _row(self, experiment: Experiment) -> dict[str, Any]:
        options, name = self.options, experiment.name
        folder, after = self._make(experiment)
        row: dict[str, Any] = {"name": name, "title": experiment.title}
        row["calibration"] = options.num_calibration_images
        row["before"] = self._accuracy(f"{name}, evaluated before", folder)
        row["after"] = None
        if after is not None:
            folder = after
            row["after"] = self._accuracy(f"{name}, evaluated after", folder)
        tuning: dict[str, Any] = {
            "minutes": options.minutes,
            "steps": options.steps,
            "device": options.device,
            "taken": measurements.steps_taken(folder, self.work / "dense"),
        }
        last = "evaluated before" if after is None else "evaluated after"
        row["origin"] = {"accuracy": self.journal.origin(f"{name}, {last}")}
        if after is not None:
            row["origin"]["tuning"] = self.journal.origin(f"{name}, fine-tuned")
            if (start := self._start(experiment)) is not None:
                tuning |= start.finetuning
                row["origin"]["tuning"] = dict(start.origin)
        facts = measurements.sizes(folder, self.work / "dense") | measurements.threshold(folder)
        return row | {"finetuning": tuning, "ms": {}} | facts

    def _make_model(
        self,
        experiment: Experiment,
        stage: str,
        folder: Path,
        tuning: Tuning | None,
        start: Start | None = None,
    ) -> None:
        recipe, options = self.recipes[experiment.name], self.options
        inputs = {**self.source, **self.calibrated_on, "recipe": recipe.to_dict()}
        run_folder = folder.parent
        if start is not None:
            recipe = replace(recipe, steps=recipe.steps[start.num_steps :])
            inputs["start"] = load_artifact(start.folder).hash
        elif tuning is not None:
            tuned = {"minutes": tuning.minutes, "steps": tuning.steps, "device": tuning.device}
            inputs |= tuned | {"settings": tuning.settings}
            # Runs with other settings do not continue from these checkpoints.
            run_folder = folder.parent / f"run-{fingerprint(inputs)}"

        def compute() -> str:
            if tuning is not None and start is None:
                choose_device(tuning.device)
            size = tuple(options.size)
            images = self.calibration()
            model = self.dense if start is None else Model.load(start.folder)
            left = recipe
            if tuning is not None and start is None:
                count = num_steps_before_tuning(recipe)
                if count:
                    model = Model.load(folder.parent / "before")
                    left = replace(recipe, steps=recipe.steps[count:])
            made = make_model(model, left, images, tuning, run_folder, self.hash, size)
            return made.save(folder).hash

        self.journal.step(f"{experiment.name}, {stage}", inputs, compute, folder)

    def _accuracy(self, name: str, folder: Path) -> dict[str, Any]:
        artifact = load_artifact(folder)
        settings = {"model": artifact.fingerprint, "processing": to_dict(artifact.processing)}
        inputs = {**self.evaluated_on, **settings}
        options = self.options
        result: dict[str, Any] = self.journal.step(
            name,
            inputs,
            lambda: measurements.accuracy(
                folder, self.suite, options.num_pairs, options.threads, options.jobs
            ),
        )
        return result

    @staticmethod
    def _names() -> list[str]:
        return [experiments.DENSE.name, *(e.name for e in experiments.EXPERIMENTS)]

    def _folder(self, row: dict[str, Any]) -> tuple[Path, bool] | None:
        """Return the folder of the model of a row, and whether it was made again for its time.

        A model that is not stored is made by its recipe without fine-tuning, which does not change
        its time. None if its number of operations differs, because the recipe has changed.
        """
        name = str(row["name"])
        if name == experiments.DENSE.name:
            return self.work / "dense", False
        stored = self.work / name / "after", self.options.finished / name
        for folder in stored:
            if folder.is_dir() and self._has_sizes(folder, row):
                return folder, False
        before = self.work / name / "before"
        [experiment] = experiments.select_experiments([name])
        self.recipes.setdefault(name, self._recipe(experiment, None))
        self._make_model(experiment, "made", before, None, self._start(experiment, "before"))
        return (before, row["after"] is not None) if self._has_sizes(before, row) else None

    def _has_sizes(self, folder: Path, row: dict[str, Any]) -> bool:
        """Whether a model has the operations of a row, except for the effect of calibration."""
        macs = measurements.sizes(folder, self.work / "dense")["macs"]
        return bool(abs(macs / row["macs"] - 1) <= MACS_TOLERANCE)
