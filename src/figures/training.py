"""Every picture of the project. Each function draws and returns one matplotlib figure; `save`
writes it.

Projections are for looking: nothing is measured on two-dimensional coordinates.
"""

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay

from src.augmentations import STATISTICS, SimCLRAugmentation
from src.data.bands import as_rgb
from src.figures.canvas import _axes
from src.losses import nt_xent_floor
from src.pretrain import views


def view_pairs(images: np.ndarray, augment: SimCLRAugmentation, seed: int = 0) -> Figure:
    """Each image over its two views, what the loss calls the same; twelve bands are shown as
    RGB.
    """
    rng = torch.Generator().manual_seed(seed)
    pair = views(torch.as_tensor(images).permute(0, 3, 1, 2), augment, rng)
    mean, std = (np.array(value) for value in STATISTICS[images.shape[-1]])
    unit = [(v.permute(0, 2, 3, 1).numpy() * std + mean).clip(0, 1) for v in pair]
    rows = [as_rgb(x) for x in (images, *unit)]
    figure, axes = _axes(3, len(images), 1.3, 1.35)
    for row_axes, row, name in zip(axes, rows, ("patch", "view i", "view j"), strict=True):
        for axis, image in zip(row_axes, row, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row_axes[0].set_ylabel(name)
    return figure


def pretraining_curves(history: pd.DataFrame, n_pairs: int, temperature: float) -> Figure:
    """Loss between its floor and chance, and the kNN probe: the first may look stuck while the
    second climbs.
    """
    figure, axes = _axes(1, 2, 4.8, 3.4)
    loss, knn = axes[0]
    trained = history[history["epoch"] > 0]
    loss.plot(
        trained["epoch"], trained["loss"], marker="o", ms=3, color="C0", label="training loss"
    )
    chance, floor = np.log(2 * n_pairs - 1), nt_xent_floor(n_pairs, temperature)
    loss.axhline(chance, color="0.4", ls=":", label=f"chance, log(2N − 1) = {chance:.2f}")
    loss.axhline(floor, color="C3", ls="--", label=f"floor for unit vectors = {floor:.2f}")
    loss.set(xlabel="epoch", ylabel="NT-Xent", title=f"loss, N = {n_pairs}, τ = {temperature}")
    probed = history.dropna(subset=["knn"]) if "knn" in history else history.iloc[:0]
    knn.plot(
        probed["epoch"], 100 * probed["knn"], marker="o", ms=3, color="C2", label="this encoder"
    )
    if len(probed):
        knn.axhline(100 * probed["knn"].iloc[0], color="0.4", ls=":", label="untrained encoder")
    knn.set(xlabel="epoch", ylabel="accuracy, %", title="kNN probe on EuroSAT (val)")
    for axis in (loss, knn):
        axis.legend(fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def finetuning_curves(histories: dict[str, pd.DataFrame]) -> Figure:
    """Validation accuracy of every arm over its learning rate; shading tells how much of a
    pretrained arm is open.
    """
    figure, axes = _axes(2, 1, 8.0, 1.9, sharex=True, height_ratios=[2, 1])
    accuracy, rate = axes[:, 0]
    for number, (arm, history) in enumerate(histories.items()):
        accuracy.plot(
            history["epoch"],
            100 * history["val_accuracy"],
            marker="o",
            ms=3,
            color=f"C{number}",
            label=arm,
        )
        rate.plot(history["epoch"], history["lr"], color=f"C{number}")
    unfrozen = max(histories.values(), key=lambda history: history["open"].nunique())
    for number, (stages, epochs) in enumerate(unfrozen.groupby("open")["epoch"]):
        for axis in (accuracy, rate):
            axis.axvspan(
                epochs.min() - 0.5, epochs.max() + 0.5, color="k", alpha=0.11 - 0.05 * number, lw=0
            )
        learns = {1: "head only", 2: "head, last stage"}.get(stages, "everything open")
        accuracy.annotate(
            learns,
            (epochs.mean(), 1.03),
            fontsize=8,
            xycoords=("data", "axes fraction"),
            ha="center",
        )
    accuracy.set(ylabel="val accuracy, %")
    accuracy.legend(fontsize=8, loc="lower right")
    lowest = min(history["lr"].iloc[0] for history in histories.values())
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    rate.set(
        ylabel="learning rate", yscale="log", ylim=(lowest / 100, None)
    )  # the cosine ends near 0
    rate.set_xlabel(
        "epoch (shading: what learns in a pretrained arm; from scratch everything does)"
    )
    return figure


def confusion(
    labels: np.ndarray, predictions: np.ndarray, classes: list[str], title: str
) -> Figure:
    """Confusion matrix in percent of the true class."""
    figure, axes = _axes(1, 1, 6.2, 5.4)
    ConfusionMatrixDisplay.from_predictions(
        labels,
        predictions,
        labels=range(len(classes)),
        display_labels=classes,
        normalize="true",
        values_format=".0%",
        ax=axes[0, 0],
        colorbar=False,
        cmap="Blues",
        text_kw={"fontsize": 7},
    )
    axes[0, 0].set_xticks(range(len(classes)), classes, rotation=60, ha="right")
    axes[0, 0].set_title(title)
    return figure
