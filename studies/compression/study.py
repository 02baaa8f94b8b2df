"""The study as a sequence of resumable steps."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import featherglue
from featherglue.artifact.format import load_artifact
from featherglue.artifact.layers import layers
from featherglue.compression.layer_selection import select_layers
from featherglue.compression.recipe import Recipe
from featherglue.compression.step_types import FinetuneConfig
from featherglue.compression.steps import fold
from featherglue.config import to_dict
from featherglue.errors import ConfigError
from featherglue.evaluation import HomographySuite
from featherglue.fingerprint import file_fingerprint, fingerprint
from featherglue.io.files import atomic_write, write_json
from featherglue.io.image import list_images, read_evenly_spaced
from featherglue.io.json import read_json
from featherglue.io.toml import read_toml
from featherglue.models.model import Model
from featherglue.sensitivity.results import Method, Scan, read_scan
from featherglue.sensitivity.scan import ScanConfig, scan
from featherglue.sensitivity.scoring import HomographyScorer, ScoringConfig
from featherglue.train.engine.devices import choose_device
from studies.compression import experiments, explanations, measurements, page
from studies.compression.experiments import Experiment
from studies.compression.journal import Journal
from studies.compression.model_making import Tuning, make_model
from studies.compression.page_figures import draw


class Study:
    """One run of the study.

    Args:
        options: options of the command line.
        command: command that reproduces the run, for the page.
    """

    def __init__(self, options: argparse.Namespace, command: str) -> None:
        self.options, self.command = options, command
        self.work = Path(options.work)
        self.journal = Journal(self.work / "journal.json")
        source = load_artifact(options.model)
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
        self.recipes: dict[str, Recipe] = {}
        self._calibration: list[Any] = []

    def run(self) -> dict[str, Any]:
        """Run all steps and return the content of results.json."""
        options = self.options
        self.selected = self._applicable()
        self._check_inputs()
        found = None if options.make_only and not options.allocate else self._scan()
        allocation = found if options.allocate else None
        self.recipes = {e.name: self._recipe(e, allocation) for e in self.selected}
        if options.make_only:
            self._save_dense()
            for experiment in self.selected:
                self._make(experiment)
            return {}
        dense = self._dense_row()
        made = {experiment.name: self._row(experiment) for experiment in self.selected}
        rows = [dense, *self._with_earlier(made)]
        for row in rows[1:]:
            taken = measurements.steps_taken(self._folder(row), self.work / "dense")
            row["finetuning"]["taken"] = taken
        timed = self._latencies(rows)
        for row in rows:
            row["latency_ms"] = timed["ms"][row["name"]]
            row.update(measurements.threshold(self._folder(row)))
        results = {
            "format_version": 1,
            "kind": "compression",
            "featherglue": featherglue.__version__,
            **self.common,
            "threads": options.threads,
            "size": list(options.size),
            "machine": timed["machine"],
            "grown": any(step.get("grown") for step in self.original.provenance.recipe),
            "rows": rows,
            "explanations": self._explanations(),
            "scan": {
                "scores": len(found.rows) if found else 0,
                "earlier": options.scan_minutes == 0,
            },
        }
        results["seconds"] = {name: self.journal.seconds(name) for name in self.journal.steps}
        write_json(options.output, results)
        self._write_page(results, found)
        return results

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

    def _scan(self) -> Scan | None:
        """Scan pruning and then k-means quantization, each for half of the time."""
        minutes, folder = self.options.scan_minutes, self.work / f"scan-{self.hash[:12]}"
        if minutes > 0:
            print("  sensitivity scan …", flush=True)  # a scan has its own files to resume
            scoring = ScoringConfig(num_pairs=self.options.num_scan_pairs)
            scorer = HomographyScorer(self.dense, self.suite, scoring)
            methods: tuple[Method, ...] = ("prune", "codebook")
            for method in methods:
                config = ScanConfig(method=method, minutes=minutes / 2)
                scan(self.dense, scorer, folder, config, about=scorer.settings())
        found = read_scan(folder)
        return found if found.rows else None

    def _save_dense(self) -> Path:
        folder = self.work / "dense"
        self.journal.step("dense, saved", self.source, lambda: self.dense.save(folder).hash, folder)
        return folder

    def _dense_row(self) -> dict[str, Any]:
        folder = self._save_dense()
        measured = self._accuracy("dense, evaluated", folder)
        facts = measurements.sizes(folder, folder)
        dense = experiments.DENSE
        both = {"before": measured, "after": measured}
        return {"name": dense.name, "title": dense.title, **both, **facts}

    def _make(self, experiment: Experiment) -> tuple[Path, Path | None]:
        """Make the models and return their folders before and after fine-tuning."""
        print(experiment.title, flush=True)
        before = self.work / experiment.name / "before"
        self._make_model(experiment, "made", before, None)
        if not self._tunes:
            print("  not fine-tuned (--minutes 0)", flush=True)
            return before, None
        after = self.work / experiment.name / "after"
        self._make_model(experiment, "fine-tuned", after, self._tuning())
        return before, after

    def _row(self, experiment: Experiment) -> dict[str, Any]:
        options, name = self.options, experiment.name
        folder, after = self._make(experiment)
        row: dict[str, Any] = {"name": name, "title": experiment.title}
        row["before"] = self._accuracy(f"{name}, evaluated before", folder)
        row["after"] = None
        if after is not None:
            folder = after
            row["after"] = self._accuracy(f"{name}, evaluated after", folder)
        tuning = {"minutes": options.minutes, "steps": options.steps, "device": options.device}
        return row | {"finetuning": tuning} | measurements.sizes(folder, self.work / "dense")

    def _with_earlier(self, made: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Return these rows and the rows of other experiments from earlier runs."""
        try:
            before = read_json(self.options.output, finite=False)
            same = {name: before[name] for name in self.common} == self.common
            kept = {row["name"]: row for row in before["rows"]} if same else {}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            kept = {}  # another error of the disk must not discard the rows
        existing = {name: row for name, row in kept.items() if self._folder(row).is_dir()}
        both = existing | made
        return [both[e.name] for e in experiments.EXPERIMENTS if e.name in both]

    def _folder(self, row: dict[str, Any]) -> Path:
        """Return the folder of the model of a row."""
        name = str(row["name"])
        if name == experiments.DENSE.name:
            return self.work / "dense"
        return self.work / name / ("before" if row["after"] is None else "after")

    def _make_model(
        self, experiment: Experiment, stage: str, folder: Path, tuning: Tuning | None
    ) -> None:
        recipe, options = self.recipes[experiment.name], self.options
        inputs = {**self.source, **self.calibrated_on, "recipe": recipe.to_dict()}
        run_folder = folder.parent
        if tuning is not None:
            tuned = {"minutes": tuning.minutes, "steps": tuning.steps, "device": tuning.device}
            inputs |= tuned | {"settings": tuning.settings}
            # Runs with other settings do not continue from these checkpoints.
            run_folder = folder.parent / f"run-{fingerprint(inputs)}"

        def compute() -> str:
            if tuning is not None:
                choose_device(tuning.device)
            size = tuple(options.size)
            images = self.calibration()
            made = make_model(self.dense, recipe, images, tuning, run_folder, self.hash, size)
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

    def _latencies(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        folders = {row["name"]: self._folder(row) for row in rows}
        models = {name: load_artifact(folder).fingerprint for name, folder in folders.items()}
        options = self.options
        repetitions, size = options.num_repetitions, tuple(options.size)
        inputs = {
            "models": models,
            "repetitions": repetitions,
            "size": list(size),
            "threads": options.threads,
        }
        result: dict[str, Any] = self.journal.step(
            "latencies",
            inputs,
            lambda: measurements.latencies(folders, options.threads, repetitions, size),
        )
        return result

    def _explanations(self) -> dict[str, Any]:
        if not self.options.num_explanation_pairs:
            return {}
        size = tuple(self.options.size)
        pairs = self.options.num_explanation_pairs
        inputs = {**self.evaluated_on, **self.calibrated_on, "explained": pairs, "refine": True}

        def explain(variants: Any) -> list[dict[str, Any]]:
            config = ScoringConfig(num_pairs=pairs, refine=True)
            scorer = HomographyScorer(self.original, self.suite, config)
            return explanations.measure(variants(self.original, self.calibration(), size), scorer)

        return {
            "linear": self.journal.step(
                "linear quantization explained",
                inputs,
                lambda: explain(explanations.linear_variants),
            ),
            "channels": self.journal.step(
                "channel pruning explained", inputs, lambda: explain(explanations.channel_variants)
            ),
        }

    def _write_page(self, results: dict[str, Any], found: Scan | None) -> None:
        options = self.options
        names = [layer.name for layer in layers(self.dense.architecture)]
        shown = select_layers(names, [], [g for g in options.histograms if g], ())
        pictures = draw(results["rows"], found, self.dense, shown, options.page.parent / "figures")
        with atomic_write(options.page) as file:
            file.write(page.render(results, pictures, self.command).encode())
        print(f"wrote {options.output} and {options.page}", flush=True)
