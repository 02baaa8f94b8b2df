"""The reference page of the session settings, generated from `featherglue.options`."""

from __future__ import annotations

import dataclasses
from typing import Any

from page_text import code, table, with_code

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model, shipped_models
from featherglue.cli.session_options import NOT_OFFERED
from featherglue.options import MODEL, ProcessingConfig, SessionOptions, settings
from featherglue.options.setting import Setting

# Words of help texts that are names; the others, such as "threads", are also plain words.
_CODE = [*(name for name in settings() if "_" in name), "None", "nn", "auto", "always", "off"]
_STAGES = {
    "session": ("Session", "How the networks run, and which methods run."),
    "extraction": ("Extraction", "From an image to its keypoints and descriptors."),
    "matching": ("Matching", "From two sets of features to matches."),
    "refinement": ("Refinement", "From matches between keypoints to subpixel matches."),
}


def settings_page() -> str:
    """The page as Markdown."""
    models = shipped_models()
    processing = {name: load_artifact(find_model(name)).processing for name in models}
    parts = [
        "# Settings",
        "",
        'A setting has the same name in Python (`fg.load("fast", max_keypoints=1024)`), in '
        "`SessionOptions`, in the `config.json` of a model, and on the command line "
        "(`--max-keypoints 1024`). A setting that is not given has the value of the model. A "
        "setting that would have no effect is an error.",
        "",
    ]
    for stage, (title, summary) in _STAGES.items():
        names = [name for name, setting in settings().items() if setting.stage == stage]
        stored = stage != "session"
        header = ["setting", "values", "meaning"] + (
            [*map(code, models)] if stored else ["default"]
        )
        rows = []
        for name in names:
            setting = settings()[name]
            values = [getattr(processing[m], name) for m in models] if stored else [_default(name)]
            rows.append(
                [_name(name), _values(setting), _help(setting), *(_shown(v) for v in values)]
            )
        parts += [f"## {title}", "", summary, "", table(header, rows)]
    parts.append(
        "Command-line flags have hyphens in place of underscores. A switch has a `--no-` form, "
        "and `off` on the command line stands for `None`. "
        f"The settings {' and '.join(map(code, NOT_OFFERED))} have no flag.\n"
    )
    return "\n".join(parts)


def _name(name: str) -> str:
    return code(name)


def _default(name: str) -> Any:
    return next(f.default for f in dataclasses.fields(SessionOptions) if f.name == name)


def _values(setting: Setting) -> str:
    if setting.kind == "choice":
        return ", ".join(map(code, setting.choices))
    if setting.kind == "size":
        return "pixels"
    if setting.kind == "boolean":
        return "`True`, `False`"
    low, high = setting.minimum, setting.maximum
    if low is not None and high is not None:
        bounds = f"{setting.kind}, {low:g} to {high:g}"
    else:
        bounds = setting.kind if low is None else f"{setting.kind}, at least {low:g}"
    return bounds + (", or `None`" if setting.optional else "")


def _help(setting: Setting) -> str:
    methods = {"superpoint": "SuperPoint", "superglue": "SuperGlue"}
    only = f" Only with {methods[setting.method]}." if setting.method in methods else ""
    return with_code(setting.help, _CODE) + only


def _shown(value: Any) -> str:
    if value is MODEL:
        return "see the meaning"
    if value == ():
        return "image size"
    return code(value)


assert {field.name for field in dataclasses.fields(ProcessingConfig)} <= set(settings())
