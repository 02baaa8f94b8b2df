"""Configurations of training and recipes: damaged TOML, and values of wrong type and range."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from featherglue.compression.recipe import Recipe
from featherglue.config import to_dict
from featherglue.io.toml import read_toml
from featherglue.train.engine.run_settings import read_stage, stage_from_dict
from featherglue.train.stages.stage_registry import STAGES
from mutators.byte_edits import Damaged, damaged
from mutators.mutator import Mutator
from mutators.values import Change, changes

ROOT = Path(__file__).parents[3]
FILES = {
    **{
        f"train-{path.parent.name}-{path.stem}": path
        for path in ROOT.glob("configs/train/*/*.toml")
    },
    **{f"recipe-{path.stem}": path for path in ROOT.glob("configs/recipes/*.toml")},
    **{f"recipe-{path.stem}": path for path in ROOT.glob("studies/compression/recipes/*.toml")},
}
WORDS = st.sampled_from(
    (
        *(b"[", b"]", b"{", b"}", b"=", b".", b'"', b"\n", b"#", b"\0", b"\xff", b"[[", b"'''"),
        *(b"1e400", b"nan", b"-inf", b"-1", b"0", b"true", b"9" * 5000, b"[" * 3000, b"a." * 3000),
    )
)


def _use(name: str, path: Path) -> None:
    if name.startswith("recipe"):
        recipe = Recipe.load(path)
        Recipe.from_dict(recipe.to_dict())
        return
    stem = name.split("-", 2)[2]
    kind = max((kind for kind in STAGES if stem.startswith(kind)), key=len, default="superpoint")
    to_dict(read_stage(STAGES[kind].config, path))


def _read(case: Damaged, folder: Path) -> None:
    """Read the file as what it is: a stage of training, or a recipe."""
    path = folder / "settings.toml"
    path.write_bytes(case.data())
    _use(case.seed, path)


@cache
def _values(name: str) -> dict[str, Any]:
    return read_toml(FILES[name])


@dataclass(frozen=True)
class Settings:
    """Settings of a file with changes of their values."""

    seed: str
    changes: tuple[Change, ...]


def _convert(case: Settings, folder: Path) -> None:
    """Convert the changed values; what converts can be written as plain values again."""
    values: Any = _values(case.seed)
    for change in case.changes:
        values = change.apply(values)
    if not isinstance(values, dict):
        return
    if case.seed.startswith("recipe"):
        Recipe.from_dict(Recipe.from_dict(values).to_dict())
        return
    stem = case.seed.split("-", 2)[2]
    kind = max((kind for kind in STAGES if stem.startswith(kind)), key=len, default="superpoint")
    to_dict(stage_from_dict(STAGES[kind].config, values, "settings"))


TOML = Mutator(
    name="toml",
    cases=damaged({name: path.read_bytes for name, path in FILES.items()}, WORDS),
    use=_read,
    num_tested=100,
)
SETTINGS = Mutator(
    name="settings",
    cases=st.builds(
        Settings,
        seed=st.sampled_from(sorted(FILES)),
        changes=st.lists(changes(), min_size=1, max_size=3).map(tuple),
    ),
    use=_convert,
    num_tested=150,
)
