"""Self-contained HTML pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from featherglue.errors import OutputError
from featherglue.io.html_page import write_html_page


def test_the_title_is_text_and_the_body_is_html(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_html_page(path, "a < b & c", "p{color:red}", "<p>é</p>")
    page = path.read_bytes().decode("utf-8")
    assert page.startswith("<!doctype html>")
    assert "<title>a &lt; b &amp; c</title><style>p{color:red}</style>" in page
    assert "<body><h1>a &lt; b &amp; c</h1><p>é</p></body>" in page


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"page\.html"):
        write_html_page(tmp_path / "file" / "page.html", "title", "", "")
