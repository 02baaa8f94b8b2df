"""Quantization: linear, k-means codebooks, and quantization-aware training."""
