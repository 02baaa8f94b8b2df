"""Kernels in C for the loops of matching that take many passes in NumPy."""
