"""Models as ONNX graphs: one writer walks the program, and each format is a choice of its sections."""
