"""The canvas that every figure is drawn on, and how it is saved and shown."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from src.data.bands import as_rgb


def save(figure: Figure, path: str | Path, coordinates: pd.DataFrame | None = None) -> Path:
    """Write a PNG and, for projections, the coordinates as a CSV of the same name beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    if coordinates is not None:
        coordinates.to_csv(path.with_suffix(".csv"), index=False, float_format="%.4f")
    return path


def _axes(
    rows: int, columns: int, width: float, height: float, title: str = "", **options
) -> tuple[Figure, np.ndarray]:
    size = (columns * width, rows * height)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **options
    )
    if title:
        figure.suptitle(title, fontsize=10)
    plt.close(figure)  # a returned figure is shown by the notebook once, not twice
    return figure, axes


def samples(images: np.ndarray, titles: list[str], columns: int = 10) -> Figure:
    """A contact sheet of (n, H, W, 3) uint8 images, or of (n, H, W, 12) reflectances, shown as
    RGB.
    """
    rows = -(-len(images) // columns)
    figure, axes = _axes(rows, columns, 1.15, 1.35)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, as_rgb(images), titles, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title, fontsize=7)
    return figure
