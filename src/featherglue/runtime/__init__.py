"""What runs the networks of an artifact: ONNX Runtime, OpenVINO or PyTorch, behind one protocol."""
