"""Encoders that were not made by this toolkit: PyTorch modules and ONNX files, with a description of their input."""
