"""Quantising a model as it is: no teacher, no training, no labels."""
