"""ONNX graphs of an artifact."""
