"""Mixed precision."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager

import torch


def autocast(device: torch.device | str, enabled: bool) -> AbstractContextManager[None]:
    """Autocast to bfloat16 if `enabled` and the device has bfloat16 instructions.

    A CPU without them emulates bfloat16 and is slower than in float32, so nothing is cast there.
    """
    device_type = torch.device(device).type
    supported = device_type != "cpu" or _cpu_supports_bfloat16()
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=enabled and supported)


def _cpu_supports_bfloat16() -> bool:
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # missing in older releases
    if get_capabilities is not None:
        found = get_capabilities()
        return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported())
