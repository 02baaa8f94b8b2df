"""Session configuration of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import onnxruntime
import pytest

from featherglue.runtime import onnxruntime_
from featherglue.session import load


@pytest.mark.parametrize(
    ("version", "key"),
    [
        ("1.18.0", "session.intra_op.allow_spinning"),
        ("1.25.1", "session.intra_op.allow_spinning"),
        ("1.26.0", "session.intra_op.spin_duration_us"),
        ("1.100.0.dev1", "session.intra_op.spin_duration_us"),
        ("2.0", "session.intra_op.spin_duration_us"),
    ],
)
def test_spinning_is_limited_or_disabled(
    version: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(onnxruntime, "__version__", version)
    monkeypatch.setattr(onnxruntime_, "_open", lambda _path, options: opened.append(options))
    load("fast", runtime="onnxruntime", threads=2)
    assert len(opened) == 2
    value = "20" if key.endswith("_us") else "0"
    assert [options.get_session_config_entry(key) for options in opened] == [value, value]
