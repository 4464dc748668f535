"""A width as an ONNX graph, and the proof that the graph computes what was trained."""
