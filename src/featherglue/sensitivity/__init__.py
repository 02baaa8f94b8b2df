"""Sensitivity of each layer to pruning and quantization."""
