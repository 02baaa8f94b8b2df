"""Reading and writing of TOML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featherglue.errors import ConfigError
from featherglue.io.toml import read_toml, toml_lines


def test_round_trip(tmp_path: Path) -> None:
    table: dict[str, Any] = {
        "name": 'quotes " and \\ and ü',
        "a key": [1, 2.5, True, "x"],
        "nested": {"inner": {"values": [[1], [2]]}, "empty": []},
        "control": "\x7f\t\n",
    }
    path = tmp_path / "a.toml"
    path.write_text("\n".join(toml_lines(table)), encoding="utf-8")
    assert read_toml(path) == table


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), [None]])
def test_values_without_a_representation_are_rejected(value: object) -> None:
    with pytest.raises(ConfigError, match="cannot represent"):
        toml_lines({"key": value})


def test_invalid_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(ConfigError, match=r"a\.toml: cannot be read"):
        read_toml(path)
    path.write_text("= 4")
    with pytest.raises(ConfigError, match=r"a\.toml: not valid TOML"):
        read_toml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"a\.toml: not valid TOML"):
        read_toml(path)
