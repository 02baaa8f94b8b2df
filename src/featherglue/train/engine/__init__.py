"""The training loop and what it needs: checkpoints, run log, loader, distributed training."""
