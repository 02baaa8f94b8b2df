"""What runs the networks of an artifact: ONNX Runtime or PyTorch, behind one protocol."""
