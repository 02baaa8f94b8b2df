"""Moved to `featherglue.machine`."""

from featherglue.machine import describe_machine, peak_memory  # noqa: F401
