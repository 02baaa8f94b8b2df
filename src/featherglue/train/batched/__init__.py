"""Training data that is generated in batches on the training device."""
