"""Kernels in C for the loops of matching and geometry that take many passes in NumPy."""
