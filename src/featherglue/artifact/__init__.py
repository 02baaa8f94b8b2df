"""The artifact of a model: its configuration, tensors and encodings, without PyTorch."""
