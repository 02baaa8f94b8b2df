"""Learned local feature matching in real time on an ordinary CPU.

    import featherglue as fg

    session = fg.load("fast")
    result = session("a.jpg", "b.jpg")
    result.matches.points0, result.matches.points1  # (M, 2) pixels
    result.homography().model  # H_0to1

The public names are those of `__all__`. They are imported on first use: `import featherglue`
loads nothing heavy. `Model`, `Recipe` and `compress` need PyTorch (the extra `train`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# Public name -> module.
_PUBLIC = {
    "FeatherglueError": "errors",
    "Features": "types",
    "MatchResult": "types",
    "Matches": "types",
    "Model": "models.model",
    "Recipe": "compression.recipe",
    "Session": "session",
    "SessionOptions": "options",
    "benchmark": "benchmarking.latency",
    "compress": "compression.compress",
    "draw_matches": "drawing",
    "estimate_fundamental": "geometry.estimation",
    "estimate_homography": "geometry.estimation",
    "estimate_relative_pose": "geometry.estimation",
    "evaluate": "evaluation.runner",
    "load": "session",
    "reconstruct": "collection.reconstruction",
    "shipped_models": "artifact.registry",
}
__all__ = [
    "FeatherglueError",
    "Features",
    "MatchResult",
    "Matches",
    "Model",
    "Recipe",
    "Session",
    "SessionOptions",
    "__version__",
    "benchmark",
    "compress",
    "draw_matches",
    "estimate_fundamental",
    "estimate_homography",
    "estimate_relative_pose",
    "evaluate",
    "load",
    "reconstruct",
    "shipped_models",
]

if TYPE_CHECKING:
    from featherglue.artifact.registry import shipped_models as shipped_models
    from featherglue.benchmarking.latency import benchmark as benchmark
    from featherglue.collection.reconstruction import reconstruct as reconstruct
    from featherglue.compression.compress import compress as compress
    from featherglue.compression.recipe import Recipe as Recipe
    from featherglue.drawing import draw_matches as draw_matches
    from featherglue.errors import FeatherglueError as FeatherglueError
    from featherglue.evaluation.runner import evaluate as evaluate
    from featherglue.geometry.estimation import estimate_fundamental as estimate_fundamental
    from featherglue.geometry.estimation import estimate_homography as estimate_homography
    from featherglue.geometry.estimation import estimate_relative_pose as estimate_relative_pose
    from featherglue.models.model import Model as Model
    from featherglue.options import SessionOptions as SessionOptions
    from featherglue.session import Session as Session
    from featherglue.session import load as load
    from featherglue.types import Features as Features
    from featherglue.types import Matches as Matches
    from featherglue.types import MatchResult as MatchResult


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'featherglue' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"featherglue.{_PUBLIC[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from featherglue.errors import MissingNameError

        raise MissingNameError(f"featherglue.{name}", "train") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
