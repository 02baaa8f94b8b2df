"""Fine-grained pruning: weight importance, masks and schedules."""
