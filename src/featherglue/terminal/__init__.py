"""The process of the command line: its signals and standard streams. Imports nothing large."""
