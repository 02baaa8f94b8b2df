"""Structured pruning: channels, heads, widths and layers."""
