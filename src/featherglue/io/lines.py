"""Lines of text files with file names: encodings, quotes, tabs, CSV and comments.

Names are separated by spaces, tabs or commas. A name with spaces is quoted (`"a b.jpg"`), has
backslashes (`a\\ b.jpg`), or is in a file that is separated by tabs or commas. `#` starts a
comment.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from featherglue.errors import PairListError

MAX_SIZE = 1 << 30  # bytes
MAX_LINE = 100_000  # characters
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# A quoted token, a plain one with escaped spaces, or a comment.
_TOKEN = re.compile(
    r"""\s*(?:"((?:[^"\\]|\\.)*)"(?=\s|$) | '((?:[^'\\]|\\.)*)'(?=\s|$)
    | (\#.*) | ((?:\\[\s"'\#\\]|\S)+))""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\([\s\"'#])")
_HEADINGS = frozenset(("image0", "name0", "path0", "image"))

Line = tuple[int, list[str]]
"""Number of a line, from 1, and its fields."""
Check = Callable[[Sequence[str]], str]
"""Returns what is wrong with the fields of a line, or ""."""


def read_text(path: str | os.PathLike[str] | BinaryIO) -> str:
    """The text of a file or stream in UTF-8, or in UTF-16 or UTF-32 with or without a mark.

    Raises:
        PairListError: the file cannot be read as text.
    """
    name = path if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "input")
    try:
        if isinstance(path, (str, os.PathLike)):
            if Path(path).stat().st_size > MAX_SIZE:
                raise PairListError(f"{name}: too large for a list")
            data = Path(path).read_bytes()
        else:
            data = path.read()
        for mark, encoding in _BYTE_ORDER_MARKS:
            if data.startswith(mark):
                return data[len(mark) :].decode(encoding)
        if len(data) >= 4 and data[1::2][:50].count(0) * 2 > len(data[1::2][:50]):
            return data.decode("utf-16-le")
        if len(data) >= 4 and data[::2][:50].count(0) * 2 > len(data[::2][:50]):
            return data.decode("utf-16-be")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise PairListError(f"{name}: no such file") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PairListError(f"{name}: cannot be read as text ({reason})") from None


def read_fields(path: str | os.PathLike[str] | BinaryIO, check: Check) -> list[Line]:
    """The fields of every line that is neither empty nor a comment.

    The fields are those of a CSV file if its name ends in .csv, or if the lines are valid only as
    CSV. Otherwise each line is split at spaces, or at tabs if it is valid only so.

    Args:
        path: the file, or a binary stream.
        check: decides whether the fields of a line are valid.

    Raises:
        PairListError: the file is unreadable, or a line is not valid; the message names the line.
    """
    name = path if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "input")
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if _is_used(line)]
    for number, line in lines:
        if len(line) > MAX_LINE:
            raise PairListError(f"{name}, line {number}: {len(line)} characters are too long")
    as_csv = _csv_fields(lines)
    prefers_csv = str(name).lower().endswith(".csv")
    if prefers_csv and all(not check(fields) for _, fields in as_csv):
        return as_csv
    found = []
    for number, line in lines:
        fields = next(
            (fields for fields in (_split(line), _split_tabs(line)) if not check(fields)), None
        )
        if fields is None or fields[0].endswith(","):
            if as_csv and all(not check(fields) for _, fields in as_csv):
                return as_csv
            raise PairListError(f"{name}, line {number}: {check(fields or _split(line))}")
        found.append((number, fields))
    return found


def quote_name(name: str) -> str:
    """A name as `read_fields` reads it, with quotes where it needs them.

    Raises:
        PairListError: a list cannot hold the name.
    """
    quoted = '"' + name.replace('"', '\\"') + '"'
    written = quoted if re.search(r"[\s\"'#\\,]", name) else name
    if "\n" in name or "\r" in name or _split(written) != [name]:
        raise PairListError(f"{name!r}: a list cannot hold this name: rename the file")
    return written


def _is_used(line: str) -> bool:
    return bool(line.strip("\0 \t\f\v")) and not line.lstrip().startswith("#")


def _split(line: str) -> list[str]:
    """Fields that are separated by spaces, without the comment."""
    fields = []
    for found in _TOKEN.finditer(line):
        double, single, comment, plain = found.groups()
        if comment is not None:
            break
        quoted = double if double is not None else single
        if quoted is not None:
            fields.append(re.sub(r"\\([\"'])", r"\1", quoted))
        else:
            fields.append(_ESCAPE.sub(r"\1", plain))
    return fields


def _split_tabs(line: str) -> list[str]:
    fields = [field.strip() for field in line.partition("\t#")[0].split("\t")]
    return [field.strip('"') for field in fields if field]


def _csv_fields(lines: Sequence[tuple[int, str]]) -> list[Line]:
    """The fields of lines as CSV, without a line of headings; empty if they are not CSV."""
    found: list[Line] = []
    for number, line in lines:
        try:
            rows = list(csv.reader([re.sub(r"\s#[^\"]*$", "", line)], skipinitialspace=True))
        except csv.Error:
            return []
        fields = [field.strip() for field in rows[0]] if rows else []
        if not found and fields and fields[0].lower() in _HEADINGS:
            continue
        found.append((number, fields))
    return found
