"""Runtimes of the networks: compiled kernels, ONNX Runtime, OpenVINO, PyTorch, sparse kernels.

The modules `onnxruntime_`, `openvino_` and `torch_` have the name of the library that they import.
The underscore tells them apart from it, in imports and in tracebacks.
"""
