"""The model card of an artifact: its README.md."""

from __future__ import annotations

import json
from typing import Any

from featherglue.artifact.layers import total_macs
from featherglue.config import ArchitectureConfig, Provenance

_DESCRIPTIONS = {
    (True, True): "A model for featherglue: a SuperPoint extractor and a SuperGlue matcher.",
    (True, False): "A model for featherglue: a SuperPoint extractor.",
    (False, True): "A model for featherglue: a SuperGlue matcher.",
}
_USAGE = """```python
import featherglue as fg

session = fg.load({name})  # or the path of this folder
result = session("a.jpg", "b.jpg")
```"""


def model_card(
    name: str,
    architecture: ArchitectureConfig,
    provenance: Provenance,
    *,
    num_parameters: int,
    weight_bytes: int,
) -> str:
    """The model card as Markdown.

    Args:
        name: name of the model.
        num_parameters: number of learned parameters.
        weight_bytes: size of the weight file, bytes.
    """
    parts = architecture.extractor is not None, architecture.matcher is not None
    macs = total_macs(architecture)
    facts = [
        ("License", provenance.license or "unknown"),
        ("Training data", provenance.data or "unknown"),
        ("Parameters", f"{num_parameters:,}"),
        ("Size of the weights", f"{weight_bytes:,} bytes"),
    ]
    if parts[0]:
        facts.append(("Extraction, 640×480", f"{macs['extractor'] / 1e9:.2f} G MACs"))
    if parts[1]:
        facts.append(("Matching, 512 keypoints each", f"{macs['matcher'] / 1e9:.2f} G MACs"))
    lines = [f"# {name}", "", _DESCRIPTIONS[parts], "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts]
    if all(parts):
        lines += ["", "## Use", "", _USAGE.format(name=json.dumps(name))]
    if provenance.recipe:
        lines += ["", "## How it was made", ""]
        lines += [f"{i}. {_step(step)}" for i, step in enumerate(provenance.recipe, start=1)]
    return "\n".join(lines) + "\n"


def _step(step: dict[str, Any]) -> str:
    """A step of the recipe as Markdown: its name, and its settings as JSON."""
    settings = {key: value for key, value in step.items() if key != "step"}
    name = str(step.get("step", "step"))
    return f"{name}: `{json.dumps(settings, ensure_ascii=False)}`" if settings else name
