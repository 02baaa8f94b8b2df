"""SuperPoint and SuperGlue in PyTorch."""
