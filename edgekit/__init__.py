"""edgekit: from a trained PyTorch model to a verified int8 bundle on an edge device."""

__all__ = ["__version__"]

__version__ = "0.1.0"
