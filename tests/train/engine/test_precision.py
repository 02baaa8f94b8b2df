"""Autocast to bfloat16."""

from __future__ import annotations

import pytest
import torch

from featherglue.train.engine.precision import autocast


def product() -> torch.dtype:
    return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False}, True, torch.float32),
        ({"avx512_bf16": True}, True, torch.bfloat16),
        ({"architecture": "aarch64", "bf16": True}, True, torch.bfloat16),
        ({"avx512_bf16": True}, False, torch.float32),
    ],
)
def test_cpu_uses_bfloat16_only_with_hardware_support(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, object], wanted: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    with autocast("cpu", wanted):
        assert product() == expected
