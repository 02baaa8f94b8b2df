"""Runtimes for the networks of an artifact: ONNX Runtime, OpenVINO and PyTorch."""
