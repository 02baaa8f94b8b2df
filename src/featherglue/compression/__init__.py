"""Model compression: pruning, quantization, fine-tuning, and recipes that combine them."""
