"""A page to look into a feature space with: one HTML file that needs no server and no network.

It shows one panel of a projection: the image of a point under the mouse, colours by class, by right
and wrong or by a score, chosen classes alone, and the nearest training images of a clicked point.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from src.data.bands import as_rgb
from src.figures.detection import SCORE_NAMES
from src.figures.page import standalone_html
from src.figures.palette import OUT_COLOR, class_colors
from src.figures.projections import OOD_NAME
from src.probes import evenly_spread

LIMIT = 5_000_000  # bytes of a page
SCRIPTS = 1_700_000  # of them bokeh's own
SIZES = (64, 48, 40, 32, 24, 16)  # pixels of a thumbnail: the largest with which a page fits
QUALITY = 60  # of WebP
PREDICTED = "predicted"
BAR = "display:inline-block;width:180px;height:12px"
DOT = "display:inline-block;width:11px;height:11px;border-radius:6px;margin:0 4px 0 10px"
RIGHT_AND_WRONG = {"right": "#1B5DD1", "wrong": "#C27D00"}  # told apart without red and green


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of N images, from `nearest`."""

    places: np.ndarray  # (N, k) rows of `images`, the nearest first
    distances: np.ndarray  # (N, k) cosine distances in [0, 2]
    images: np.ndarray  # (M, H, W, C) of the training set
    labels: np.ndarray  # (M,) class numbers


def nearest(
    features: np.ndarray,
    train_features: np.ndarray,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    k: int = 6,
) -> Nearest:
    """The k nearest training images of each image, by cosine, for `explore`.

    Args:
        features: (N, D) of the projected images.
        train_features, train_images, train_labels: (M, D), (M, H, W, C), (M,).
    """
    search = NearestNeighbors(n_neighbors=min(k, len(train_features)), metric="cosine")
    distances, places = search.fit(train_features).kneighbors(features)
    return Nearest(places, distances, train_images, np.asarray(train_labels))


def explore(
    points: pd.DataFrame,
    images: Sequence[np.ndarray],
    classes: Sequence[str],
    path: str | Path,
    *,
    scores: pd.DataFrame | None = None,
    nearest: Nearest | None = None,
    title: str = "",
    ood_name: str = OOD_NAME,
) -> Path:
    """Write the page of one panel of a projection, at most 5 MB large.

    Args:
        points: one panel's, from `project`.
        images: N of (H, W, C), of any sizes: the projected set, whose `row` the points name. The
            thumbnails are as large as the size of the page allows (3,000 points: 24 to 48 pixels).
        path: of the HTML file.
        scores: N rows; each column is a way to colour the points. A column "predicted" holds class
            numbers: right and wrong is a way to colour them, too.
        nearest: what a clicked point is shown with.
        ood_name: of the points without a class.

    Raises:
        ModuleNotFoundError: bokeh is not installed; it is an extra.
        ValueError: several panels, arrays whose lengths don't fit, or more points than fit a page.
    """
    _check(points, images, scores, nearest)
    rows = points["row"].to_numpy()
    names = [ood_name if label < 0 else classes[label] for label in points["label"]]
    table = {"x": points["x"].to_numpy(), "y": points["y"].to_numpy(), "name": names}
    table["text"] = _texts(names, rows, classes, scores)
    modes = _modes(points["label"].to_numpy(), rows, classes, scores, ood_name)
    neighbours, shown = _neighbours(rows, nearest)
    trained = images if nearest is None else nearest.images
    told = [] if nearest is None else [escape(classes[n]) for n in nearest.labels[shown]]
    for size in SIZES:
        if _estimate(images, rows, size) + _estimate(trained, shown, size) > LIMIT - SCRIPTS:
            continue
        table["image"] = _thumbnails(images, rows, size)
        training = {"image": _thumbnails(trained, shown, size), "name": told}
        html = standalone_html(table, modes, neighbours, training, title)
        if len(html) <= LIMIT:
            path = Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(html)
            return path
    raise ValueError(
        f"{len(points):,} points don't fit a page of {LIMIT:,} bytes: give `project` a lower limit"
    )


def _check(
    points: pd.DataFrame,
    images: Sequence[np.ndarray],
    scores: pd.DataFrame | None,
    nearest: Nearest | None,
) -> None:
    panels = list(points["panel"].unique())
    if len(panels) != 1 or "row" not in points:
        raise ValueError(
            f"explore shows one panel of `project`, with its rows; got the panels {panels} and the"
            f" columns {list(points)}"
        )
    given = {"scores": scores, "nearest": None if nearest is None else nearest.places}
    lengths = {name: len(rows) for name, rows in given.items() if rows is not None}
    if set(lengths.values()) - {len(images)} or points["row"].max() >= len(images):
        raise ValueError(
            f"expected one row for each of {len(images)} images, got {lengths} and points up to row"
            f" {points['row'].max()}"
        )


# --- what is shown ---


def _estimate(images: Sequence[np.ndarray], rows: np.ndarray, size: int) -> int:
    """Bytes of the thumbnails, from a few of them."""
    few = _thumbnails(images, evenly_spread(rows, 50), size) if len(rows) else []
    return int(np.mean([len(url) for url in few] or [0]) * len(rows))


def _thumbnails(images: Sequence[np.ndarray], rows: np.ndarray, size: int) -> list[str]:
    """Each image as a data URL."""
    urls = []
    for row in rows:
        picture = as_rgb(images[row])
        if picture.dtype != np.uint8:
            picture = (255 * picture).astype(np.uint8)
        picture = Image.fromarray(picture)
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=QUALITY)
        urls.append("data:image/webp;base64," + base64.b64encode(file.getvalue()).decode())
    return urls


def _texts(
    names: list[str], rows: np.ndarray, classes: Sequence[str], scores: pd.DataFrame | None
) -> list[str]:
    """HTML under the image of each point."""
    lines = [[f"<b>{escape(name)}</b>"] for name in names]
    for column in [] if scores is None else scores:
        values, title = scores[column].to_numpy()[rows], escape(SCORE_NAMES.get(column, column))
        for line, value in zip(lines, values, strict=True):
            told = escape(classes[int(value)]) if column == PREDICTED else f"{value:.3g}"
            line.append(f"{title}: {told}")
    return ["<br>".join(line) for line in lines]


def _neighbours(
    rows: np.ndarray, nearest: Nearest | None
) -> tuple[list[list[tuple[int, str]]], np.ndarray]:
    """For each point (place among the training images shown, distance), and those images' rows."""
    if nearest is None:
        return [], np.array([], int)
    found, distances = nearest.places[rows], nearest.distances[rows]
    shown, places = np.unique(found, return_inverse=True)
    pairs = [
        [(int(place), f"{distance:.3f}") for place, distance in zip(*of_point, strict=True)]
        for of_point in zip(places.reshape(found.shape), distances, strict=True)
    ]
    return pairs, shown


# --- ways to colour ---


def _modes(
    labels: np.ndarray,
    rows: np.ndarray,
    classes: Sequence[str],
    scores: pd.DataFrame | None,
    ood_name: str,
) -> dict[str, dict[str, Any]]:
    """Name → the place of each point's colour, the colours, and a legend in HTML."""
    present = sorted(set(labels), key=lambda label: (label < 0, label))
    colors = [*class_colors(classes), OUT_COLOR]
    shown = [(ood_name if label < 0 else classes[label], colors[label]) for label in present]
    place = {label: number for number, label in enumerate(present)}
    modes = {"class": _mode([place[label] for label in labels], shown)}
    for name in [] if scores is None else scores:
        values = scores[name].to_numpy()[rows]
        if name == PREDICTED:
            right = np.where(values == labels, 0, 1)
            told = [*RIGHT_AND_WRONG.items(), (ood_name, OUT_COLOR)]
            modes["right or wrong"] = _mode(np.where(labels < 0, 2, right), told)
        else:
            title = SCORE_NAMES.get(name, name)
            modes[title] = _ramp(values, title)
    return modes


def _ramp(values: np.ndarray, title: str) -> dict[str, Any]:
    """From the 1st to the 99th percentile along viridis."""
    ramp = [to_hex(color) for color in colormaps["viridis"](np.linspace(0, 1, 256))]
    low, high = np.quantile(values, [0.01, 0.99])
    share = ((values - low) / (high - low or 1)).clip(0, 1)
    bar = f"linear-gradient(to right, {', '.join(ramp[::32])})"
    bar = f'{low:.3g} <span style="background:{bar};{BAR}"></span> {high:.3g}'
    legend = f"{escape(title)}, low to high<br>{bar}"
    return {"numbers": (255 * share).astype(np.uint8), "colors": ramp, "legend": legend}


def _mode(numbers: Sequence[int], colors: list[tuple[str, str]]) -> dict[str, Any]:
    legend = "".join(
        '<span style="white-space:nowrap;display:inline-block">'
        f'<span style="background:{color};{DOT}"></span>{escape(name)}</span> '
        for name, color in colors
    )
    numbers = np.asarray(numbers, np.uint8)
    return {"numbers": numbers, "colors": [color for _, color in colors], "legend": legend}
