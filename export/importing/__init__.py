"""From ONNX files that nobody trained here to a family in a Triton model repository."""
