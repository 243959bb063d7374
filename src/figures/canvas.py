"""The canvas that every figure is drawn on, and how it is saved and shown."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.data.bands import as_rgb

REPOSITORY = Path(__file__).resolve().parents[2]


def save(figure: Figure, path: str | Path, coordinates: pd.DataFrame | None = None) -> Path:
    """Write a PNG and, for projections, the coordinates as a CSV of the same name beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    if coordinates is not None:
        coordinates.to_csv(path.with_suffix(".csv"), index=False, float_format="%.4f")
    return path


def show(figure: Figure, path: str | Path, coordinates: pd.DataFrame | None = None) -> Figure:
    """`save` a figure, print where, and return it: as the last line of a cell it is displayed.

    The path is printed from the current folder or from the repository, where it lies in one.
    """
    saved = save(figure, path, coordinates).absolute()
    folders = [folder for folder in (Path.cwd(), REPOSITORY) if saved.is_relative_to(folder)]
    print(saved.relative_to(folders[0]) if folders else saved)
    return figure


def redraw() -> Callable[[Figure], None]:
    """In a notebook: what shows each figure it is given in place of the one before."""
    from IPython.display import DisplayHandle

    handle, shown = DisplayHandle(), []

    def show_instead(figure: Figure) -> None:
        (handle.update if shown else handle.display)(figure)
        shown[:] = [figure]

    return show_instead


def axes_grid(
    rows: int, columns: int, width: float, height: float, title: str = "", **options
) -> tuple[Figure, np.ndarray]:
    """An empty figure and its (rows, columns) axes.

    Args:
        width, height: of each of the axes, inches.
        title: over the whole figure.
        options: of `matplotlib.pyplot.subplots`.
    """
    size = (columns * width, rows * height)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **options
    )
    if title:
        figure.suptitle(title, fontsize=10)
    plt.close(figure)  # a returned figure is shown by the notebook once, not twice
    return figure, axes


def write_in_cells(axis: Axes, texts: list[list[str]], bright: np.ndarray, fontsize: float) -> None:
    """Write a text in each cell of a drawn matrix: black where a cell is `bright`, else white."""
    for row, column in np.ndindex(bright.shape):
        color = "k" if bright[row, column] else "w"
        text = texts[row][column]
        axis.text(column, row, text, ha="center", va="center", fontsize=fontsize, color=color)


def samples(images: np.ndarray, titles: list[str], columns: int = 10) -> Figure:
    """A contact sheet with a title over each image.

    Args:
        images: (n, H, W, 3) uint8, or (n, H, W, 12) reflectances, which are shown as RGB.
    """
    rows = -(-len(images) // columns)
    figure, axes = axes_grid(rows, columns, 1.15, 1.35)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, as_rgb(images), titles, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title, fontsize=7)
    return figure
