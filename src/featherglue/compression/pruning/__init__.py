"""Fine-grained pruning: importance, masks and schedules."""
