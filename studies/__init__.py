"""Reproducible studies. They are not part of the package."""
