"""Mutators: generated and damaged input of every kind, and what must hold for it.

A module of this package defines one or more `Mutator`s. The property tests beside this package run
a few cases of each in `make test`, always the same ones. `make fuzz MINUTES=30` runs all of them
for a given time, each case in a process of its own (see `run_fuzz.py`).

To add a mutator, write a module here, name it in `MODULES`, and add a test file with
`test_… = property_test(MUTATOR)`.
"""

from __future__ import annotations

from importlib import import_module

from mutators.mutator import Mutator

MODULES = (
    "image_files",
    "list_files",
    "artifact_files",
    "stored_files",
    "collection_files",
    "configurations",
    "python_calls",
)


def all_mutators() -> list[Mutator]:
    """The mutators of all modules, in order."""
    modules = [import_module(f"mutators.{name}") for name in MODULES]
    return [value for module in modules for value in vars(module).values() if _is_mutator(value)]


def _is_mutator(value: object) -> bool:
    return isinstance(value, Mutator)
