"""End-to-end ONNX graphs: from pixels to keypoints, descriptors and matches.

`extract.onnx` turns an image into keypoints, `match.onnx` matches those of two images, and
`pipeline.onnx` does both. They need no code before or after them. The consensus of neighbors and
the refinement on the images, which a session adds, are not in the graphs.

Shape legend: H×W pixels, K keypoints (`num_keypoints`), D descriptor width.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import featherglue
from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact
from featherglue.artifact.layers import CELL
from featherglue.errors import ConfigError, UsageError
from featherglue.export.builder import FLOAT, INT64, UINT8, Graph
from featherglue.export.cache import FINGERPRINT_KEY, graph_fingerprint
from featherglue.export.detection import ScoreMap, Sides, top_candidates
from featherglue.export.extractor import ExtractorBuilder
from featherglue.export.matcher import MatcherBuilder
from featherglue.export.optimal_matching import mutual_matches, optimal_transport
from featherglue.export.quantization import Quantizer
from featherglue.export.sampling import pixel_positions, sampled_descriptors, subpixel_offsets
from featherglue.fingerprint import fingerprint
from featherglue.io.files import atomic_write
from featherglue.options import ProcessingConfig
from featherglue.options.setting import is_integer, shown

INTERFACE = 1  # version of the names, shapes and meaning of inputs, outputs and metadata
MAX_KEYPOINTS, MAX_SIDE = 8192, 8192
_MASKED = -1e9  # added to the attention logits of unused places


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Settings of end-to-end graphs.

    Attributes:
        size: (width, height) of the images, px; None for images of any size. Other sizes than
            multiples of 8 are padded in the graph.
        num_keypoints: number K of places for keypoints; None for the model's `max_keypoints`.
        float16: store the weights in half precision. They are computed with in single precision.

    Raises:
        ConfigError: a value out of range.
    """

    size: tuple[int, int] | None = None
    num_keypoints: int | None = None
    float16: bool = False

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", _checked_size(self.size))
        count = self.num_keypoints
        if count is not None and not _is_within(count, 1, MAX_KEYPOINTS):
            raise ConfigError(
                f"num_keypoints must be an integer in [1, {MAX_KEYPOINTS}], not {shown(count)}"
            )


def _checked_size(size: Any) -> tuple[int, int]:
    """A size as plain integers."""
    sides = size if isinstance(size, (tuple, list)) else ()
    if len(sides) != 2 or not all(_is_within(side, CELL, MAX_SIDE) for side in sides):
        raise ConfigError(
            f"size must be a width and a height in [{CELL}, {MAX_SIDE}] px, not {shown(size)}"
        )
    return int(sides[0]), int(sides[1])


def _is_within(value: Any, low: int, high: int) -> bool:
    """Whether a value is an integer between two bounds, inclusive."""
    return is_integer(value) and bool(low <= value <= high)


def export_pipeline(
    artifact: Artifact, folder: str | os.PathLike[str], config: PipelineConfig | None = None
) -> list[Path]:
    """Write extract.onnx, match.onnx and pipeline.onnx, as far as the artifact has the networks.

    Returns:
        Paths of the files.

    Raises:
        UsageError: the artifact has not been saved, or keeps all keypoints and `num_keypoints` is
            not given.
        OutputError: the folder cannot be written.
    """
    if not artifact.hash:
        raise UsageError("artifact must be saved before its export")
    exporter = _Exporter(artifact, config or PipelineConfig())
    graphs: dict[str, Graph] = {}
    if artifact.architecture.extractor is not None:
        graphs["extract"] = exporter.extract()
    if artifact.architecture.matcher is not None:
        graphs["match"] = exporter.match()
    if len(graphs) == 2:
        graphs["pipeline"] = exporter.pipeline()
    built = {name: graph.build(exporter.metadata(name)) for name, graph in graphs.items()}
    paths = []
    for name, data in built.items():
        path = Path(folder) / f"{name}.onnx"
        with atomic_write(path) as file:
            file.write(data)
        paths.append(path)
    return paths


@dataclass(frozen=True)
class _View:
    """Features of one image as values of a graph: (K, 2), (K,) and (K, D) float32."""

    keypoints: str
    scores: str
    descriptors: str


class _Exporter:
    """Builds the graphs of one artifact."""

    def __init__(self, artifact: Artifact, config: PipelineConfig) -> None:
        self.artifact, self.folded, self.config = artifact, fold_batch_norm(artifact), config
        self.processing: ProcessingConfig = artifact.processing
        count = config.num_keypoints or self.processing.max_keypoints
        if count < 1:
            raise UsageError("this model keeps all keypoints: pass `num_keypoints`")
        self.count = count

    def metadata(self, name: str) -> dict[str, str]:
        """The metadata of a graph; see docs/reference/end-to-end-graphs.md."""
        config, processing = self.config, dataclasses.asdict(self.processing)
        processing["max_keypoints"] = self.count
        size = None if config.size is None else list(config.size)
        code, half = graph_fingerprint(self.artifact), config.float16
        return {
            "featherglue": featherglue.__version__,
            "interface": str(INTERFACE),
            "graph": name,
            "model": self.artifact.name or "",
            FINGERPRINT_KEY: fingerprint("pipeline", INTERFACE, code, size, processing, half),
            "num_keypoints": str(self.count),
            "size": json.dumps(size),
            "settings": json.dumps(processing),
        }

    def extract(self) -> Graph:
        """Image → keypoints, scores, descriptors."""
        g = self._graph("extract")
        view = self._extract(g, self._image(g, "image"))
        self._output_view(g, view, "")
        return g

    def match(self) -> Graph:
        """Keypoints, scores, descriptors and sizes of two images → matches and confidences."""
        g, count = self._graph("match"), self.count
        assert self.folded.architecture.matcher is not None
        width = self.folded.architecture.matcher.descriptor_dim
        views = [
            _View(
                keypoints=g.input(f"keypoints{i}", FLOAT, [count, 2]),
                scores=g.input(f"scores{i}", FLOAT, [count]),
                descriptors=g.input(f"descriptors{i}", FLOAT, [count, width]),
            )
            for i in range(2)
        ]
        self._match(g, views, [g.input(f"image_size{i}", FLOAT, [2]) for i in range(2)])
        return g

    def pipeline(self) -> Graph:
        """Two images → everything."""
        g = self._graph("pipeline")
        views = []
        images = [self._image(g, f"image{i}", str(i)) for i in range(2)]
        for i, image in enumerate(images):
            with g.scope(f"image{i}"):
                views.append(self._extract(g, image))
        for i, view in enumerate(views):
            self._output_view(g, view, str(i))
        self._match(g, views, [_image_size(g, image, self.config.size) for image in images])
        return g

    def _graph(self, name: str) -> Graph:
        return Graph(name, round_constants=self.config.float16)

    def _image(self, g: Graph, name: str, suffix: str = "") -> str:
        sides: list[int | str] = [f"height{suffix}", f"width{suffix}"]
        if self.config.size is not None:
            sides = list(self.config.size[::-1])
        return g.input(name, UINT8, [1, 1, *sides])

    def _output_view(self, g: Graph, view: _View, suffix: str) -> None:
        assert self.folded.architecture.extractor is not None
        width = self.folded.architecture.extractor.descriptor_dim
        g.output(view.keypoints, f"keypoints{suffix}", [self.count, 2])
        g.output(view.scores, f"scores{suffix}", [self.count])
        g.output(view.descriptors, f"descriptors{suffix}", [self.count, width])

    def _extract(self, g: Graph, image: str) -> _View:
        """Add the extraction from an image (1, 1, H, W) uint8."""
        processing = self.processing
        image, sides = _padded(g, image, self.config.size)
        quantizer = Quantizer(g, self.folded.quantization)
        builder = ExtractorBuilder(self.folded.arrays, g, quantizer)
        encoded = builder.encode(image)
        scores = ScoreMap(g, builder.logits(builder.conv("Pa", encoded)), sides, processing)
        x, y, values, used = top_candidates(g, scores, self.count, processing)
        keypoints = pixel_positions(g, x, y)
        if processing.subpixel:
            keypoints = g.op("Add", keypoints, subpixel_offsets(g, scores, x, y, sides))
        sampled = sampled_descriptors(
            g, builder.descriptors(encoded), keypoints, sides, processing.descriptor_sampling
        )
        used = g.op("Unsqueeze", used, g.integers(1))
        keypoints, sampled = (g.op("Mul", value, used) for value in (keypoints, sampled))
        return _View(keypoints, values, sampled)

    def _match(self, g: Graph, views: Sequence[_View], sizes: Sequence[str]) -> None:
        """Add the matching of two views of images with `sizes` (2,) float32, and its outputs."""
        folded, processing = self.folded, self.processing
        assert folded.architecture.matcher is not None
        used = [
            g.op("Cast", g.op("Greater", view.scores, g.number(0.0)), to=FLOAT) for view in views
        ]
        keypoints = [self._matcher_keypoints(g, *pair) for pair in zip(views, sizes, strict=True)]
        masks = _stacked(g, *used)
        bias = g.op("Mul", g.op("Sub", masks, g.number(1.0)), g.number(-_MASKED))
        builder = MatcherBuilder(
            folded.arrays, folded.architecture.matcher, g, Quantizer(g, folded.quantization)
        )
        scores = builder.scores(
            _stacked(g, *keypoints),
            _stacked(g, *(view.descriptors for view in views)),
            g.op("Unsqueeze", bias, g.integers(1)),
        )
        bin_score = float(folded.arrays["matcher.bin_score"])
        iterations = processing.sinkhorn_iterations
        assignment = optimal_transport(g, scores, used[0], used[1], bin_score, iterations)
        matches, confidence = mutual_matches(g, assignment, self.count, processing.match_threshold)
        g.output(matches, "matches", [self.count], INT64)
        g.output(confidence, "confidence", [self.count])

    def _matcher_keypoints(self, g: Graph, view: _View, size: str) -> str:
        """Normalized positions and scores (K, 3); see `matching.matchers.matcher_keypoints`."""
        center = g.op("Mul", size, g.number(0.5))
        longest = g.op("ReduceMax", size, axes=[0], keepdims=1)
        scale = g.op("Mul", longest, g.number(0.7))
        normalized = g.op("Div", g.op("Sub", view.keypoints, center), scale)
        scores = g.op("Unsqueeze", view.scores, g.integers(1))
        return g.op("Concat", normalized, scores, axis=1)


def _stacked(g: Graph, first: str, second: str) -> str:
    """Two values as one batch."""
    axis = g.integers(0)
    return g.op("Concat", *(g.op("Unsqueeze", v, axis) for v in (first, second)), axis=0)


def _image_size(g: Graph, image: str, size: tuple[int, int] | None) -> str:
    """Width and height of an image (1, 1, H, W) as (2,) float32."""
    if size is not None:
        return g.constant("image_size", np.array(size, np.float32))
    return g.op("Cast", g.op("Gather", g.op("Shape", image), g.integers(3, 2), axis=0), to=FLOAT)


def _padded(g: Graph, image: str, size: tuple[int, int] | None) -> tuple[str, Sides]:
    """Repeat the last row and column of an image (1, 1, H, W) up to multiples of 8."""
    if size is not None:
        width, height = size
        bottom, right = -height % CELL, -width % CELL
        if bottom or right:
            pads = g.integers(0, 0, 0, 0, 0, 0, bottom, right)
            image = g.op("Pad", image, pads, mode="edge")
        sides = Sides(
            g.number(float(width)),
            g.number(float(height)),
            g.integer((width + right) // CELL),
            g.integer((height + bottom) // CELL),
        )
        return image, sides
    shape = g.op("Shape", image)
    pixels = g.op("Slice", shape, g.integers(2), g.integers(4))
    cell = g.integers(CELL)
    missing = g.op("Mod", g.op("Sub", g.integers(0), pixels), cell)
    image = g.op("Pad", image, g.op("Concat", g.integers(*[0] * 6), missing, axis=0), mode="edge")
    cells = g.op("Div", g.op("Add", pixels, missing), cell)
    lengths = g.op("Cast", pixels, to=FLOAT)
    first, second = g.integer(0), g.integer(1)
    sides = Sides(
        *(g.op("Gather", lengths, i, axis=0) for i in (second, first)),
        *(g.op("Gather", cells, i, axis=0) for i in (second, first)),
    )
    return image, sides
