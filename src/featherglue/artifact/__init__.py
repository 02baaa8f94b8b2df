"""Artifacts: the files of a model, without PyTorch."""
