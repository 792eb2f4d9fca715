"""Rows to learn from and rows to judge by: reading, checking, splitting, keeping."""

from edgekit_models.data.dataset import Dataset, Rows, read_dataset, save_dataset
from edgekit_models.data.load import load_dataset

__all__ = ["Dataset", "Rows", "load_dataset", "read_dataset", "save_dataset"]
