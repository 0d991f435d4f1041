"""Data sets: where their splits lie, which rows serve what, and their images, decoded in time."""

from training.data.errors import DataError
from training.data.source import ImageSource, LabelledImages, load_images, open_images
from training.data.splits import Splits, split_rows

__all__ = [
    "DataError",
    "ImageSource",
    "LabelledImages",
    "Splits",
    "load_images",
    "open_images",
    "split_rows",
]
