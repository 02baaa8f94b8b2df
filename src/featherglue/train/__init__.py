"""Training of SuperPoint and SuperGlue in PyTorch: engine, losses, stages, batched data."""
