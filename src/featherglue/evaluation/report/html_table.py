"""Tables of a report as HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its heading.
        value: takes the value out of a result; None if the result lacks it.
        better: 1 if larger values are better, −1 if smaller ones are, 0 if neither.
        digits: number of decimals.
    """

    heading: str
    value: Callable[[Result], float | None]
    better: int = 0
    digits: int = 1


def value_of(key: str, threshold: str | None = None) -> Callable[[Result], float | None]:
    """A function that takes a number out of a result, by key and threshold."""

    def value(row: Result) -> float | None:
        found = row.get(key)
        if threshold is not None and isinstance(found, Mapping):
            found = found.get(threshold)
        return float(found) if isinstance(found, (int, float)) and abs(found) < 1e300 else None

    return value


def columns_with_values(columns: Sequence[Column], rows: Sequence[Result]) -> list[Column]:
    """The columns that have a value in at least one row."""
    return [column for column in columns if any(column.value(row) is not None for row in rows)]


def table(
    names: Sequence[str],
    rows: Sequence[Result],
    columns: Sequence[Column],
    baseline: int | None,
    best: bool = True,
    note: bool = True,
) -> str:
    """An HTML table. On narrow screens each row becomes a block with one value per line.

    Args:
        names: name of each row.
        rows: results that the columns take their values from.
        columns: the columns.
        baseline: index of the row that differences are shown to; None shows none.
        best: whether the best value of each column is bold.
        note: whether a note explains the differences.
    """
    head = "".join(f"<th>{html.escape(column.heading)}</th>" for column in columns)
    values = [[column.value(row) for column in columns] for row in rows]
    winners = [
        _best([row[i] for row in values], column.better) if best and len(rows) > 1 else None
        for i, column in enumerate(columns)
    ]
    lines = []
    for r, name in enumerate(names):
        cells = []
        for c, column in enumerate(columns):
            value = values[r][c]
            text = "–" if value is None else f"{value:,.{column.digits}f}"
            if value is not None and value == winners[c]:
                text = f"<b>{text}</b>"
            reference = None if baseline is None or r == baseline else values[baseline][c]
            if value is not None and reference is not None and column.better:
                text += f"<small>{value - reference:+.{column.digits}f}</small>"
            cells.append(f'<td data-label="{html.escape(column.heading)}"><span>{text}</span></td>')
        lines.append(f"<tr><th>{html.escape(name)}</th>{''.join(cells)}</tr>")
    text_below = ""
    if note and baseline is not None and len(rows) > 1:
        text_below = (
            f"<p class=note>Differences from {html.escape(names[baseline])}; best in bold.</p>"
        )
    body = "".join(lines)
    wide = " wide" if len(columns) > 7 else ""
    return (
        f"<div class='scroll{wide}'><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>{text_below}"
    )


def _best(values: Sequence[float | None], better: int) -> float | None:
    known = [value for value in values if value is not None]
    if better == 0 or len(set(known)) < 2:  # equal values have no best one
        return None
    return max(known) if better > 0 else min(known)
