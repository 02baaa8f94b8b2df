"""The reference pages of the Python API: directives that mkdocstrings expands."""

from __future__ import annotations

from pathlib import Path

import featherglue
from featherglue import _PUBLIC

_GROUPS = {
    "Matching": ("load", "Session", "SessionOptions", "draw_matches", "shipped_models"),
    "Results": ("Features", "Matches", "MatchResult"),
    "Geometry": ("estimate_homography", "estimate_fundamental", "estimate_relative_pose"),
    "Measuring": ("evaluate", "benchmark"),
    "Models and compression": ("Model", "Recipe", "compress"),
    "Errors": ("FeatherglueError",),
}
# Packages for users who go beyond `import featherglue`; the others are internal.
_PACKAGES = {
    "video": "Matching of video frames and tracking.",
    "collection": "Matching of many images.",
    "geometry": "Two-view geometry and metrics.",
    "benchmarking": "Latency, memory and cold start of sessions.",
    "evaluation": "Accuracy on image pairs with a known relation.",
    "artifact": "The files of a model.",
    "export": "ONNX graphs.",
    "runtime": "Execution of the networks.",
    "matching": "The steps of a match.",
    "data": "Training data.",
    "models": "SuperPoint and SuperGlue in PyTorch.",
    "compression": "Pruning, quantization and recipes.",
    "sensitivity": "Sensitivity of each layer to compression.",
}


def python_page() -> str:
    """The page of the public names."""
    rest = [name for name in featherglue.__all__ if name in _PUBLIC]
    parts = [
        "# Python API",
        "",
        "These names are in `featherglue`, by convention `import featherglue as fg`. "
        "[More modules](packages.md) are documented package by package.",
        "",
    ]
    for title, names in _GROUPS.items():
        listed = [name for name in names if name in rest]
        rest = [name for name in rest if name not in listed]
        parts += [f"## {title}", "", *(_directive(name) for name in listed)]
    if rest:
        parts += ["## Other names", "", *(_directive(name) for name in rest)]
    return "\n".join(parts)


def packages_page() -> str:
    """The page of the packages, with every public module that has documented names."""
    root = Path(featherglue.__file__).parent
    parts = [
        "# Python packages",
        "",
        "Modules below `featherglue`. Their names may change between minor versions; those of "
        "the [Python API](python.md) change only with a deprecation.",
        "",
    ]
    for package, summary in _PACKAGES.items():
        parts += [f"## featherglue.{package}", "", summary, ""]
        for path in sorted((root / package).rglob("*.py")):
            if path.name == "__init__.py":
                continue
            module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
            parts.append(_module(module))
    return "\n".join(parts)


def _module(module: str) -> str:
    """The directive of a module, without the names that are on the page of the Python API."""
    public = [name for name, home in _PUBLIC.items() if f"featherglue.{home}" == module]
    filters = ", ".join(f'"!^{name}$"' for name in ("_.*", *public))
    return (
        f"::: {module}\n"
        "    options:\n"
        f"      filters: [{filters}]\n"
        "      show_root_full_path: true\n"
        "      heading_level: 3\n"
    )


def _directive(name: str) -> str:
    return f"::: featherglue.{_PUBLIC[name]}.{name}\n"
