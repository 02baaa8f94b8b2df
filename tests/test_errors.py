"""The exceptions: one tree, one module, exit codes by the kind of fault."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

import featherglue
from featherglue import errors
from featherglue.artifact.registry import find_model
from featherglue.errors import (
    ArtifactError,
    FeatherglueError,
    MissingExtraError,
    MissingNameError,
    UsageError,
    counted,
    did_you_mean,
)
from featherglue.options import make_options

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value)
    and value.__module__ == errors.__name__
    and not issubclass(value, Warning)
]
ROOT = Path(featherglue.__file__).parent


@pytest.mark.parametrize("error", CLASSES)
def test_every_exception_is_a_documented_featherglue_error(error: type[FeatherglueError]) -> None:
    assert issubclass(error, FeatherglueError)
    assert error.__doc__
    assert error.exit_code in (1, 2)


def test_usage_errors_have_exit_code_2() -> None:
    misuse = {error.__name__ for error in CLASSES if error.exit_code == 2}
    assert misuse == {"UsageError", "ConfigError", "PairListError"}
    assert issubclass(UsageError, ValueError)


def test_no_exception_is_defined_elsewhere() -> None:
    names = {error.__name__ for error in CLASSES} | {"Exception", "ValueError", "RuntimeError"}
    elsewhere = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in ROOT.rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and names & {ast.unparse(base) for base in node.bases}
    ]
    assert elsewhere == []


def test_no_message_outside_the_command_line_names_a_flag() -> None:
    flag = re.compile(r"(?<![\w-])--[a-z]")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in ROOT.rglob("*.py")
        if "cli" not in path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if flag.search(node.value)
    ]
    assert found == []


def test_missing_extra_names_the_package() -> None:
    error = MissingExtraError("training", "train")
    assert str(error) == "training needs an optional dependency: pip install 'featherglue[train]'"
    assert isinstance(MissingNameError("featherglue.Model", "train"), AttributeError)


@pytest.mark.parametrize("error", CLASSES)
def test_every_exception_can_be_sent_to_another_process(error: type[FeatherglueError]) -> None:
    raised = error("reading", "hloc") if issubclass(error, MissingExtraError) else error("reading")
    received = pickle.loads(pickle.dumps(raised))
    assert type(received) is error
    assert str(received) == str(raised)


def test_a_mistyped_name_is_recognized() -> None:
    assert did_you_mean("fats", ["balanced", "fast"]) == " (did you mean 'fast'?)"
    assert did_you_mean("xyz", ["balanced", "fast"]) == ""
    with pytest.raises(ArtifactError, match=r"no model 'fats' \(did you mean 'fast'\?\)"):
        find_model("fats")
    with pytest.raises(UsageError, match="did you mean 'max_keypoints'"):
        make_options(max_keypoint=3)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 pairs"), (1, "1 pair"), (2, "2 pairs"), (-1, "-1 pairs")]
)
def test_numbers_with_nouns(number: int, text: str) -> None:
    assert counted(number, "pair") == text


def test_an_irregular_plural() -> None:
    assert counted(3, "match", "matches") == "3 matches"
    assert counted(1, "match", "matches") == "1 match"
