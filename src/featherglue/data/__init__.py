"""Training data: photographs, homographies, photometric augmentation and 3D scenes (no PyTorch)."""
