"""Static int8 for ONNX and TFLite."""
