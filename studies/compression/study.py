"""The study as a sequence of resumable steps."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import featherglue
from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.errors import UsageError
from featherglue.fingerprint import fingerprint
from featherglue.io.files import atomic_write, write_json
from featherglue.machine import describe_machine
from featherglue.sensitivity.results import Scan, read_scan
from featherglue.sensitivity.scoring import HomographyScorer, ScoringConfig
from studies.compression import (
    estimates,
    experiments,
    explanations,
    measurements,
    page,
    scanning,
    speed,
    weight_errors,
)
from studies.compression.continuation import first_part
from studies.compression.experiments import Experiment
from studies.compression.journal import current_origin
from studies.compression.layer_figures import losses
from studies.compression.model_steps import ModelSteps
from studies.compression.page_figures import draw
from studies.compression.parallel_scanning import run_scans
from studies.compression.results_file import keep_latency, kept_rows, upgraded
from studies.compression.sparsity import (
    SparsitySettings,
    check_engines,
    fine_tuned_models,
    measure_sparsity,
)
from studies.compression.timing import Turn, Turns, conditions, medians, what_is_timed

_FIGURE_3 = ("dense", "macs-25", "macs-10")
_SHIPPED = ("balanced", "fast")  # measured beside the models of the study


class ExplanationStep(NamedTuple):
    """A variant to measure: its part of the results, the name of the step, and the variant."""

    part: str
    name: str
    variant: explanations.Variant


class Study(ModelSteps):
    """One run of the study.

    Args:
        options: options of the command line.
        command: command that reproduces the run, for the page.
    """

    def __init__(self, options: argparse.Namespace, command: str) -> None:
        super().__init__(options)
        self.command = command
        self._remade: set[str] = set()  # models that were made again for their times

    def run(self) -> dict[str, Any]:
        """Run all steps and return the content of results.json."""
        options = self.options
        self.selected = self._applicable()
        self._check_inputs()
        if options.num_sparsity_repetitions and not options.make_only:
            check_engines()
        self.recipes = {e.name: self._recipe(e, None) for e in self.selected}
        self._print_estimate()
        allocation = self._scan() if options.allocate else None
        if allocation is not None:
            self.recipes = {e.name: self._recipe(e, allocation) for e in self.selected}
        if options.make_only:
            self._save_dense()
            for experiment in self.selected:
                self._make(experiment)
            return {}
        rows = self._all_rows()
        for row in rows[1:]:
            row["calibrated"] = experiments.calibrated_parts(options.recipes, row)
        folders = self._models_to_time(rows)
        timed = self._latencies(folders) if options.num_repetitions else {}
        for row in rows:
            if row["name"] in timed:
                row["ms"] = timed[row["name"]]["ms"]
                again = {"remade": True} if row["name"] in self._remade else {}
                row["origin"]["latency"] = timed[row["name"]]["origin"] | again
        found = allocation or self._scan()
        results = {
            "format_version": 2,
            "kind": "compression",
            "featherglue": featherglue.__version__,
            **self.common,
            "model": Path(options.model).name,
            "quick": options.quick,
            "threads": options.threads,
            "size": list(options.size),
            "machine": describe_machine(),
            "grown": any(step.get("grown") for step in self.original.provenance.recipe),
            "rows": rows,
            "shipped": self._shipped(timed),
            "speed": self._speed(folders),
            "weights": self._weights(),
            "explanations": self._explanations(),
            "scan": scanning.summary(self.dense, found, self._scan_settings()),
            "allocation": self._check_allocation(found),
            "sparsity": self._sparsity(),
        }
        results["origins"] = self._origins(results)
        results["seconds"] = {name: self.journal.seconds(name) for name in self.journal.steps}
        self._add_earlier_parts(results)
        write_json(options.output, results)
        self._write_page(results, found)
        return results

    def _print_estimate(self) -> None:
        """Print how long the steps that are left will take."""
        options = self.options
        left: list[tuple[Experiment, str]] = []
        if not (options.keep_rows or self.journal.origin("dense, evaluated")):
            left.append((experiments.DENSE, "evaluate"))
        for experiment in self.selected:
            steps = {"made": "make", "evaluated before": "evaluate"}
            continues = first_part(self.recipes[experiment.name], options.recipes) is not None
            if self._tunes and not continues:
                steps |= {"fine-tuned": "tune"}
            if self._tunes or continues:
                steps |= {"evaluated after": "evaluate"}
            done = self.journal.steps
            left += [
                (experiment, step)
                for name, step in steps.items()
                if f"{experiment.name}, {name}" not in done
                and not (options.make_only and step == "evaluate")
            ]
        num_models = len(experiments.EXPERIMENTS) + 1 + len(_SHIPPED)
        explained = [
            self.journal.is_done(step.name, self._explained_on())
            for step in (self._explanation_steps() if options.num_explanation_pairs else [])
        ]
        found = estimates.estimate(
            options, left, self.journal.steps, self.pairs, num_models, explained.count(False)
        )
        if any(one.units for one in found):
            dense, size = self._save_dense(), tuple(options.size)
            unit = estimates.unit_seconds(dense, options.threads, size)
            print(estimates.describe(found, unit), flush=True)

    def _all_rows(self) -> list[dict[str, Any]]:
        """Return the row of the dense model, and those of this run and of earlier runs."""
        if self.options.keep_rows:
            self._save_dense()
            kept = kept_rows(self.options.output, self.common)
            if experiments.DENSE.name not in kept:
                raise UsageError(
                    f"{self.options.output}: has no rows of this dense model and these pairs; run "
                    "without --keep-rows"
                )
            return [kept[name] for name in self._names() if name in kept]
        dense = self._dense_row()
        made = {experiment.name: self._row(experiment) for experiment in self.selected}
        kept = kept_rows(self.options.output, self.common)
        for name, row in made.items():
            keep_latency(row, kept.get(name))
        both = kept | {dense["name"]: dense} | made
        return [both[name] for name in self._names() if name in both]

    def _models_to_time(self, rows: Sequence[dict[str, Any]]) -> dict[str, Path]:
        """Return the folder of each model whose time is measured, with those of shipped models."""
        options, found = self.options, {}
        if not (options.num_repetitions or options.num_rounds):
            return {}
        for row in rows:
            wanted = options.num_repetitions or row["name"] in _FIGURE_3
            if wanted and (folder := self._folder(row)) is not None:
                found[row["name"]] = folder[0]
                self._remade |= {row["name"]} if folder[1] else set()
        return found | {name: Path(find_model(name)) for name in options.shipped}

    def _shipped(self, timed: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the size and the latencies of the shipped models."""
        before = upgraded(self.options.output, self.common).get("shipped", [])
        known = {row["name"]: row for row in before}
        found = []
        for name in self.options.shipped:
            folder = Path(find_model(name))
            times = timed.get(name) or {"ms": {}} | known.get(name, {})
            row = {"name": name, "ms": times["ms"], "origin": times.get("origin", {})}
            found.append(row | measurements.sizes(folder, folder))
        return found

    def _speed(self, folders: Mapping[str, Path]) -> dict[str, Any]:
        options = self.options
        if not options.num_rounds:
            return {}
        names = (*_FIGURE_3, *options.shipped)
        chosen = {name: folders[name] for name in names if name in folders}
        settings = speed.SpeedSettings(
            keypoints=tuple(options.keypoints),
            size=tuple(options.size),
            threads=options.timing_threads,
            repetitions=options.num_rounds,
            xfeat=options.xfeat,
        )
        models = {name: what_is_timed(load_artifact(path)) for name, path in chosen.items()}
        inputs = {"models": models, **speed.plain(settings)}

        def remember(name: str, known: Mapping[str, Any], measure: Callable[[], Turn]) -> Turn:
            turn: Turn = self.journal.step(f"{name}, Figure 3", {**inputs, **known}, measure)
            return turn

        measured = speed.measure_speed(chosen, settings, remember)
        last = [name for name in self.journal.steps if name.endswith(", Figure 3")][-1]
        return {**measured, "origin": self.journal.origin(last)}

    def _weights(self) -> dict[str, Any]:
        folded = fold_batch_norm(self.original.to_artifact())
        return dict(weight_errors.summary(self.original.to_artifact(), folded))

    def _add_earlier_parts(self, results: dict[str, Any]) -> None:
        """Add the parts of an earlier run that this one has skipped."""
        before = upgraded(self.options.output, self.common)
        for part in ("speed", "explanations", "allocation", "sparsity"):
            if not results[part] and before.get(part):
                results[part] = before[part]
        seconds = before.get("seconds", {})
        if self.options.num_explanation_pairs:  # replaces all earlier ones
            seconds = {name: s for name, s in seconds.items() if not name.endswith(" explained")}
        results["seconds"] = seconds | results["seconds"]

    def _origins(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Return where and when the last score of the scan, and the allocation, were measured."""
        before = upgraded(self.options.output, self.common).get("origins", {})
        scored = bool(results["scan"] and self.options.scan_minutes)
        found = {"scan": current_origin()} if scored else {}
        if results["allocation"]:
            found["allocation"] = self.journal.origin("allocation checked")
        return dict(before) | found

    def _scan_settings(self) -> scanning.ScanSettings:
        options = self.options
        return scanning.ScanSettings(
            num_pairs=options.num_scan_pairs,
            max_keypoints=options.scan_keypoints,
            minutes=options.scan_minutes,
        )

    def _scan(self) -> Scan | None:
        """Continue the scan, and publish it beside the results."""
        options, settings = self.options, self._scan_settings()
        published = Path(options.output).parent / "scan"
        about = fingerprint(scanning.about_scores(self.suite, settings))
        folder = self.work / f"scan-{self.hash[:12]}-{about}"
        scanning.continue_published(self.dense, self.suite, published, folder, settings)
        scanning.merge_into(folder, scanning.read_scans(self.dense, options.scan_from))
        if options.scan_minutes > 0:
            print("  sensitivity scan …", flush=True)  # a scan has its own files to resume
            run = run_scans if options.scan_jobs > 1 else scanning.run_scan
            run(self.dense, self.suite, folder, settings)
        found = read_scan(folder)
        if found.rows:
            scanning.copy_scan(folder, published)
            return found
        found = scanning.published_scan(self.dense, published)  # with other settings
        return found if found.rows else None

    def _check_allocation(self, found: Scan | None) -> list[dict[str, Any]]:
        """Compare the allocation of the scan with uniform pruning, without fine-tuning."""
        sparsities = self.options.allocate_sparsities
        new = self.options.scan_minutes or self.options.scan_from
        if found is None or not sparsities or not new:
            return []
        inputs = {**self.source, "rows": len(found.rows), "sparsities": list(sparsities)}
        settings = self._scan_settings()

        def compare() -> list[dict[str, Any]]:
            return scanning.compare_allocation(self.dense, self.suite, found, sparsities, settings)

        rows: list[dict[str, Any]] = self.journal.step("allocation checked", inputs, compare)
        return rows

    def _latencies(self, folders: Mapping[str, Path]) -> dict[str, Any]:
        """Return `ms` by runtime and `origin` of each model. A turn is a step of the journal."""
        options, size = self.options, tuple(self.options.size)
        threads = options.timing_threads
        models = {name: what_is_timed(load_artifact(path)) for name, path in folders.items()}
        found: dict[str, Any] = {name: {"ms": {}} for name in folders}
        all_turns: list[Turn] = []
        for runtime in speed.RUNTIMES:
            inputs = {"models": models, "size": size, "threads": threads, "runtime": runtime}
            opened = partial(measurements.frames, tuple(folders.values()), runtime, threads, size)
            measure = Turns(opened, threads)
            turns = [
                self.journal.step(f"turn {i + 1} in {runtime}, latencies", inputs, measure)
                for i in range(options.num_repetitions)
            ]
            for name, seconds in zip(folders, medians(turns), strict=True):
                found[name]["ms"][runtime] = round(1000 * seconds, 2)
            all_turns += turns
        last = f"turn {options.num_repetitions} in {speed.RUNTIMES[-1]}, latencies"
        origin = self.journal.origin(last) | conditions(all_turns, threads)
        origin["turns"] = options.num_repetitions
        return {name: times | {"origin": origin} for name, times in found.items()}

    def _explained_on(self) -> dict[str, Any]:
        """Return what determines the explanations."""
        pairs = self.options.num_explanation_pairs
        return {**self.evaluated_on, **self.calibrated_on, "explained": pairs, "refine": True}

    def _explanation_steps(self) -> list[ExplanationStep]:
        """Return the steps that explain failures. Their models are made when they are measured."""
        size = tuple(self.options.size)
        return [
            ExplanationStep(part, f"{variant.title}, {method} explained", variant)
            for part, method, variants in (
                ("linear", "linear quantization", explanations.linear_variants),
                ("channels", "channel pruning", explanations.channel_variants),
            )
            for variant in variants(self.original, self.calibration(), size)
        ]

    def _explanations(self) -> dict[str, Any]:
        pairs = self.options.num_explanation_pairs
        if not pairs:
            return {}
        config = ScoringConfig(num_pairs=pairs, refine=True)
        scorer = cache(lambda: HomographyScorer(self.original, self.suite, config))

        def explain(variant: explanations.Variant) -> dict[str, Any]:
            return explanations.measure(variant, scorer())

        results: dict[str, Any] = {"linear": [], "channels": [], "pairs": pairs, "origins": {}}
        dates: dict[str, set[str]] = {"linear": set(), "channels": set()}
        for step in self._explanation_steps():
            compute = partial(explain, step.variant)
            results[step.part].append(self.journal.step(step.name, self._explained_on(), compute))
            dates[step.part].add(self.journal.origin(step.name).get("date", ""))
            results["origins"][step.part] = self.journal.origin(step.name)
        for part, days in dates.items():
            period = " to ".join(dict.fromkeys((min(days), max(days))))
            results["origins"][part] |= {"date": period} if min(days) else {}
        return results

    def _sparsity(self) -> dict[str, Any]:
        """Return what zero weights gain; see `sparsity.measure_sparsity`."""
        options = self.options
        if not options.num_sparsity_repetitions:
            return {}
        settings = SparsitySettings(
            num_pairs=options.num_sparsity_pairs,
            repetitions=options.num_sparsity_repetitions,
            size=tuple(options.size),
        )
        tuned = fine_tuned_models(self.work, options.finished, self.artifact)
        return measure_sparsity(
            self.dense, tuned, self.suite, settings, self.journal, self.evaluated_on
        )

    def _write_page(self, results: dict[str, Any], found: Scan | None) -> None:
        options = self.options
        pictures = draw(results, found, self.original, self.dense, options.page.parent / "figures")
        states = ("unrefined", "refined")
        pruned, shared = (
            {state: losses(found, method, state) for state in states} if found else {}
            for method in ("prune", "codebook")
        )
        text = page.render(results, pictures, self.command, pruned, shared)
        with atomic_write(options.page) as file:
            file.write(text.encode())
        print(f"wrote {options.output} and {options.page}", flush=True)
