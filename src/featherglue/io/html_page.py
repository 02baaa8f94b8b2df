"""Self-contained HTML pages."""

from __future__ import annotations

import html
import os

from featherglue.io.files import atomic_write


def write_html_page(path: str | os.PathLike[str], title: str, style: str, body: str) -> None:
    """Write an HTML page atomically.

    Args:
        path: the HTML file.
        title: title and first heading of the page, as plain text.
        style: CSS of the page.
        body: HTML below the heading.

    Raises:
        OutputError: the file cannot be written.
    """
    heading = html.escape(title)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title><style>{style}</style></head>"
        f"<body><h1>{heading}</h1>{body}</body></html>\n"
    )
    with atomic_write(path) as file:
        file.write(page.encode())
