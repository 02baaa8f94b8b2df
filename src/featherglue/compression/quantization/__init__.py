"""Quantization: linear, codebooks and quantization-aware training."""
