"""Export of artifacts as ONNX graphs for inference on a CPU."""
