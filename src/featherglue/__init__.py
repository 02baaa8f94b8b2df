"""Learned local feature matching in real time on an ordinary CPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module; imported on first use, so that `import featherglue` is fast.
_PUBLIC = {
    "Features": "types",
    "MatchResult": "types",
    "Matches": "types",
    "FeatherglueError": "errors",
    "Model": "models.model",
    "Recipe": "compression.recipe",
    "Session": "session",
    "benchmark": "benchmarking",
    "compress": "compression.recipe",
    "evaluate": "evaluation.runner",
    "load": "session",
    "shipped_models": "artifact.registry",
}
__all__ = [
    "FeatherglueError",
    "Features",
    "MatchResult",
    "Matches",
    "Session",
    "__version__",
    "benchmark",
    "evaluate",
    "load",
    "shipped_models",
]

if TYPE_CHECKING:
    from featherglue.artifact.registry import shipped_models as shipped_models
    from featherglue.benchmarking import benchmark as benchmark
    from featherglue.compression.recipe import Recipe as Recipe
    from featherglue.compression.recipe import compress as compress
    from featherglue.errors import FeatherglueError as FeatherglueError
    from featherglue.evaluation.runner import evaluate as evaluate
    from featherglue.models.model import Model as Model
    from featherglue.session import Session as Session
    from featherglue.session import load as load
    from featherglue.types import Features as Features
    from featherglue.types import Matches as Matches
    from featherglue.types import MatchResult as MatchResult


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'featherglue' has no attribute {name!r}")
    try:
        return getattr(import_module(f"featherglue.{_PUBLIC[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            from featherglue.errors import MissingNameError

            raise MissingNameError(f"featherglue.{name}", "train") from None
        raise


def __dir__() -> list[str]:
    return [*__all__, "Model", "Recipe", "compress"]
