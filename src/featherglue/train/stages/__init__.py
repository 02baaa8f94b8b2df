"""The stages of training, each from a configuration to a model."""
