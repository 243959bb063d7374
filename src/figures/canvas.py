"""The canvas that every figure is drawn on, and how it is saved and shown."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.data.bands import as_rgb

REPOSITORY = Path(__file__).resolve().parents[2]
# inches: on a page 830 pixels wide (a README's) text of 8 points is then 10 pixels high
WIDTH = 9.2
MANY = 20  # classes: more leave no room for a number in each cell of a matrix


def save(figure: Figure, path: str | Path, coordinates: pd.DataFrame | None = None) -> Path:
    """Write a PNG and, for projections, the coordinates as a CSV of the same name beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
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
        width, height: of each of the axes, inches; `WIDTH` is shared by those of a row.
        title: over the whole figure.
        options: of `matplotlib.pyplot.subplots`.
    """
    size = (min(columns * width, WIDTH), rows * height)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **options
    )
    if title:
        figure.suptitle(title, fontsize=10)
    plt.close(figure)  # a returned figure is shown by the notebook once, not twice
    return figure, axes


def legend_below(figure: Figure, handles: Iterable[Artist], names: list[str]) -> None:
    """A legend of any number of names under the axes; the figure grows by its height."""
    if not names:
        return
    width, height = figure.get_size_inches()
    column = 0.45 + 0.066 * max(map(len, names))  # inches: of a marker and 8-point letters
    columns = max(1, min(len(names), int(width / column)))
    rows = -(-len(names) // columns)
    figure.set_size_inches(width, height + 0.18 * rows + 0.1)
    look = {"fontsize": 8, "columnspacing": 1.0, "handletextpad": 0.3, "frameon": False}
    figure.legend(handles, names, loc="outside lower center", ncols=columns, **look)


def in_lines(name: str, width: int = 14) -> str:
    """A long name on two lines or more, parted where a word of it begins."""
    lines = [""]
    for word in re.findall(r"[A-Z]?[^A-Z\s_]+[\s_]?|[A-Z]+|.", name):
        if lines[-1] and len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


def draw_matrix(
    axis: Axes,
    values: np.ndarray,
    names: tuple[list[str], list[str]],
    cmap: str,
    text: str,
    limits: tuple[float, float],
) -> None:
    """A matrix (rows, columns) with a name for each, and numbers or, of many classes, a colour bar.

    Args:
        names: of the rows and of the columns.
        text: format of a number in its cell; one that is written without a digit from 1 to 9 is
            left out.
        limits: values of the first and the last colour.
    """
    low, high = limits
    drawn = axis.imshow(values, cmap=cmap, vmin=low, vmax=high, aspect="auto")
    rows, columns = values.shape
    size = 8 if max(rows, columns) <= MANY else 7
    axis.set_xticks(range(columns), names[1], rotation=60, ha="right", fontsize=size)
    axis.set_xticks(axis.get_xticks(), axis.get_xticklabels(), rotation_mode="anchor")
    axis.set_yticks(range(rows), names[0], fontsize=size)
    if max(rows, columns) > MANY:
        axis.figure.colorbar(drawn, ax=axis, fraction=0.03, pad=0.01).ax.tick_params(labelsize=8)
        return
    texts = [[format(value, text) for value in row] for row in values]
    texts = [[told if re.search("[1-9]", told) else "" for told in row] for row in texts]
    shades = drawn.cmap(drawn.norm(values))[..., :3] @ [0.299, 0.587, 0.114]
    write_in_cells(axis, texts, shades > 0.5, fontsize=7)


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
    titles = [in_lines(title) for title in titles]
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    figure, axes = axes_grid(rows, columns, 1.15, 0.95 + 0.13 * lines)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, as_rgb(images), titles, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title, fontsize=7)
    return figure
