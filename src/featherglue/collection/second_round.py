"""The pairs to match again when a model lacks photographs: those that may connect them with it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from featherglue.collection.extraction import SessionSource
from featherglue.collection.mapping import ModelSummary
from featherglue.collection.pair_selection import NamePair
from featherglue.collection.store import Store
from featherglue.collection.work_notes import WorkNotes
from featherglue.options import MODEL
from featherglue.session import load

VERSION = 1  # of the rules below: the pairs of other ones are chosen again
MAX_PHOTOS = 500  # of a collection; mapping a larger one twice takes too long
_MIN_MATCHES = 20  # of a pair
_PAIRS = 2  # of each photograph that is not registered


def pairs_to_search(
    source: SessionSource,
    summary: ModelSummary,
    match_file: str | os.PathLike[str],
    pairs: Sequence[NamePair],
) -> list[NamePair]:
    """The pairs that a search may improve enough to register more photographs.

    Of each photograph that is not registered, these are the two pairs with registered photographs
    and the two with others that have the most matches, at least 20.

    Args:
        source: the session; nothing is searched if its options set `search`, or if it has none.
        summary: the model.
        match_file: the matches.
        pairs: the pairs of the collection.

    Returns:
        Some of `pairs`, in their order; none if all photographs are registered, or if there are
        more than 500.
    """
    missing = {image.name for image in summary.images if image.error is None}
    if not missing or len(summary.images) > MAX_PHOTOS or source.options.search is not MODEL:
        return []
    if load(source.model, source.options).search == "off":
        return []
    ranked: dict[tuple[str, int], list[tuple[int, NamePair]]] = defaultdict(list)
    with Store(match_file) as store:
        for pair in pairs:
            names = missing.intersection(pair)
            if not names or pair not in store:
                continue
            found = store.read(pair, ("matches0",)).arrays.get("matches0", np.zeros(0))
            count = int(np.count_nonzero(found >= 0))
            for name in names if count >= _MIN_MATCHES else ():
                ranked[name, len(names)].append((count, pair))
    chosen = {pair for own in ranked.values() for _, pair in sorted(own)[-_PAIRS:]}
    return [pair for pair in pairs if pair in chosen]


def noted_search(notes: WorkNotes, state: str, pairs: Sequence[NamePair]) -> list[NamePair] | None:
    """The pairs that an earlier run chose to search; None if none did with this state.

    Args:
        notes: of the work folder.
        state: fingerprint of what determines the first model.
        pairs: the pairs of the collection.
    """
    noted = notes.read().get("searched")
    if not isinstance(noted, dict) or noted.get("state") != state:
        return None
    listed = {tuple(pair) for pair in noted.get("pairs", ())}
    return [pair for pair in pairs if pair in listed] if listed <= set(pairs) else None


def note_search(notes: WorkNotes, state: str, searched: Sequence[NamePair]) -> None:
    """Note the pairs to search, for later runs. Raises OutputError."""
    notes.write("searched", {"state": state, "pairs": list(searched)})
