"""PyTorch in, device artifacts out: adapt, distil, prune, quantise, export."""
