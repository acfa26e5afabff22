"""External encoders: PyTorch modules and ONNX files, with a description of their input."""
