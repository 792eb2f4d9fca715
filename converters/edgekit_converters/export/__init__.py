"""PyTorch to ONNX and TFLite in float32."""
