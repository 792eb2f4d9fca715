"""Ready models: ONNX, exported PyTorch programs, Keras and TFLite files that are quantised without training."""
