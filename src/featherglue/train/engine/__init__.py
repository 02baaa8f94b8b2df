"""The training loop, with checkpoints, run log, loader and distributed training."""
