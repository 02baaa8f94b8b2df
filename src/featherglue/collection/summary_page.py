"""The summary of a reconstruction: one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping, Sequence
from importlib import resources

import cv2
import numpy as np

from featherglue.collection.mapping import ImageSummary, ModelSummary
from featherglue.collection.model_picture import RGB, draw_model
from featherglue.io.html_page import write_html_page
from featherglue.io.pycolmap_ import require_pycolmap

_NUM_WORST = 20


def write_summary(
    path: str | os.PathLike[str],
    facts: Mapping[str, str],
    model: ModelSummary | None,
    skipped: Mapping[str, str],
) -> None:
    """Write the summary page.

    Args:
        path: the HTML file.
        facts: what to list at its top, such as the number of pairs.
        model: the sparse model; None if it was not made.
        skipped: why an image was left out, by its name.

    Raises:
        OutputError: the file cannot be written.
    """
    parts = [_table([], [[html.escape(k), html.escape(v)] for k, v in facts.items()])]
    if model is not None and model.folder is not None:
        opened = require_pycolmap().Reconstruction(model.folder)
        parts.append("<h2>Points and cameras</h2>")
        above = _figure(draw_model(opened, "above"), "from above")
        side = _figure(draw_model(opened, "side"), "from the side")
        parts.append(f"<div class=figures>{above}{side}</div>")
    if skipped:
        rows = [[html.escape(name), html.escape(reason)] for name, reason in skipped.items()]
        parts.append("<h2>Skipped images</h2>" + _table(["image", "reason"], rows))
    if model is not None:
        parts.append(_images(model.images))
    write_html_page(path, "Reconstruction", _style(), "".join(parts))


def _images(images: Sequence[ImageSummary]) -> str:
    """The images that are not registered, and those with the largest reprojection errors."""
    lost = [image for image in images if image.error is None]
    found = [image for image in images if image.error is not None]
    worst = sorted(found, key=lambda image: -(image.error or 0))[:_NUM_WORST]
    rows = [
        [
            html.escape(image.name),
            str(image.num_keypoints),
            str(image.num_pairs),
            str(image.num_points),
            "–" if image.error is None else f"{image.error:.2f}",
            html.escape(image.reason),
        ]
        for image in (*lost, *worst)
    ]
    head = ["image", "keypoints", "verified pairs", "points", "error, px"]
    head.append("why it is not registered" if lost else "")
    note = "Images that are not registered, then those with the largest reprojection errors."
    return f"<h2>Images</h2><p>{note}</p>" + _table(head, rows, wrap=False)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], wrap: bool = True) -> str:
    """An HTML table; the cells are HTML. Without `wrap` a wide table scrolls."""
    top = f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    kind = "" if wrap else " class=lines"
    return f"<div class=scroll><table{kind}>{top}{body}</table></div>"


def _figure(picture: RGB, caption: str) -> str:
    encoded = cv2.imencode(".png", np.ascontiguousarray(picture[:, :, ::-1]))[1]
    data = base64.b64encode(np.asarray(encoded).tobytes()).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _style() -> str:
    file = resources.files("featherglue.collection").joinpath("summary_page.css")
    return file.read_text(encoding="utf-8")
