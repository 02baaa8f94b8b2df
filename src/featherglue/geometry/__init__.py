"""Geometry of two views: robust estimation, local optimization and error metrics."""
