"""Losses of SuperPoint, SuperGlue and distillation."""
