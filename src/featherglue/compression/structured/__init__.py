"""Structured pruning: channels, attention heads, feature widths and layers."""
