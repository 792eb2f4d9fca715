"""Raw input to tensors; desktop and device run this same code."""
