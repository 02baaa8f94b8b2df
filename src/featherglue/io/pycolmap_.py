"""The import of pycolmap, an optional dependency."""

from __future__ import annotations

from typing import Any

from featherglue.errors import MissingExtraError
from featherglue.io.signal_handlers import kept_signal_handlers


def require_pycolmap() -> Any:
    """The module pycolmap.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        with kept_signal_handlers():
            import pycolmap
    except ModuleNotFoundError:
        raise MissingExtraError("a COLMAP database or model", "sfm") from None
    return pycolmap
