"""Training data made a batch at a time, in tensors, where the network is trained."""
