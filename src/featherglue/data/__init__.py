"""Training data: photographs, warps and changes of light. Free of PyTorch."""
