"""How far ONNX int8 and TFLite int8 of one plan agree: grids, single layers, whole models."""
