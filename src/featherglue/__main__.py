"""`python -m featherglue`."""

from featherglue.cli import entry

entry()
