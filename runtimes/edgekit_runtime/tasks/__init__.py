"""What the outputs of a model mean."""
