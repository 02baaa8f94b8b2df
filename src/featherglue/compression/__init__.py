"""Making models smaller: pruning, quantization, and recipes of them."""
