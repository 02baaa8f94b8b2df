"""The pairs to match again when a model lacks photographs: those that may connect them with it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from featherglue.collection.extraction import SessionSource
from featherglue.collection.mapping import ModelSummary
from featherglue.collection.pair_selection import NamePair
from featherglue.collection.store import Store
from featherglue.options import MODEL
from featherglue.session import load

MAX_PHOTOS = 500  # of a collection; mapping a larger one twice takes too long
_MIN_MATCHES = 20  # of a pair
_PAIRS = 2  # of each photograph


def pairs_to_search(
    source: SessionSource,
    summary: ModelSummary,
    match_file: str | os.PathLike[str],
    pairs: Sequence[NamePair],
) -> list[NamePair]:
    """The pairs that a search may improve enough to register more photographs.

    Of each photograph, these are its two pairs with the most matches, at least 20, among those
    that are not both registered.

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
    counts: dict[NamePair, int] = {}
    with Store(match_file) as store:
        for pair in pairs:
            if missing.intersection(pair) and pair in store:
                found = store.read(pair).arrays.get("matches0", ())
                counts[pair] = sum(partner >= 0 for partner in found)
    ranked = sorted(
        (pair for pair in counts if counts[pair] >= _MIN_MATCHES), key=counts.__getitem__
    )
    chosen: set[NamePair] = set()
    for name in {name for pair in ranked for name in pair}:
        chosen.update([pair for pair in reversed(ranked) if name in pair][:_PAIRS])
    return [pair for pair in pairs if pair in chosen]
