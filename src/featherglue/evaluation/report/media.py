"""Figures and pictures of a report, embedded in the page."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from featherglue.io.image import read_gray


def figure(drawing: Any, caption: str) -> str:
    """A matplotlib figure as inline SVG with a caption."""
    from featherglue.evaluation.plots import figure_svg

    return f"<figure>{figure_svg(drawing)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def image(jpeg: str, caption: str) -> str:
    """A JPEG picture, given as base64, with a caption."""
    text = html.escape(caption)
    source = f"data:image/jpeg;base64,{html.escape(jpeg)}"
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def pictures_section(pictures: Sequence[str | os.PathLike[str]]) -> str:
    """Pictures from files, at most 1400 px wide.

    Raises:
        ImageError: a picture cannot be read.
    """
    parts = ["<section><h2>Pictures</h2>"]
    for path in pictures:
        read_gray(path)  # raises ImageError
        picture = cv2.imread(os.fspath(path), cv2.IMREAD_COLOR)
        assert picture is not None
        scale = min(1.0, 1400 / picture.shape[1])
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        data = base64.b64encode(np.asarray(encoded).tobytes()).decode()
        parts.append(image(data, Path(path).stem))
    return "".join(parts) + "</section>"
