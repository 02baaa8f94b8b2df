"""MkDocs hook: adds the generated reference pages to the site.

The pages are built from the package itself, in a fixed order, so that the same code gives the same
pages.
"""

from __future__ import annotations

from pathlib import Path

from command_line_page import command_line_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from python_pages import packages_page, python_page
from recipe_steps_page import recipe_steps_page
from settings_page import settings_page

ROOT = Path(__file__).resolve().parents[2]


def pages() -> dict[str, str]:
    """The Markdown text of every generated page, by its path in the site."""
    return {
        "reference/python.md": python_page(),
        "reference/packages.md": packages_page(),
        "reference/command-line.md": command_line_page(),
        "reference/settings.md": settings_page(),
        "reference/recipe-steps.md": recipe_steps_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the files of the site."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
