"""Pictures of training: views, curves of pretraining and fine-tuning, the confusion matrix."""

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import confusion_matrix

from src.augmentations import SimCLRAugmentation, check_statistics
from src.augmentations.resampling import REFLECTANCE
from src.data.bands import EUROSAT_STRETCH, as_rgb
from src.figures.canvas import axes_grid, draw_matrix
from src.figures.palette import PRETRAINED_COLORS, UNTRAINED_COLOR, arm_colors
from src.losses import nt_xent_floor


def view_pairs(images: np.ndarray, augment: SimCLRAugmentation, seed: int = 0) -> Figure:
    """Each image over its two views, which the loss calls the same.

    Args:
        images: (n, H, W, C), shown as RGB: see `as_rgb`.
    """
    rng = torch.Generator().manual_seed(seed)
    batch = torch.as_tensor(images).permute(0, 3, 1, 2)
    bands = images.shape[-1]
    mean, std = map(np.array, check_statistics(bands, augment.mean, augment.std))
    white = REFLECTANCE if images.dtype == np.uint8 else EUROSAT_STRETCH
    rows = {"patch": as_rgb(images)}
    for name in ("view i", "view j"):
        view = augment(batch, rng).permute(0, 2, 3, 1).numpy()
        rows[name] = as_rgb((view * std + mean).clip(0, 1), white)
    figure, axes = axes_grid(3, len(images), 1.15, 1.2)
    for row_axes, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row_axes, row, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row_axes[0].set_ylabel(name)
    return figure


def pretraining_curves(
    history: pd.DataFrame,
    n_pairs: int,
    temperature: float,
    *,
    title: str = "",
    probe_name: str = "",
) -> Figure:
    """Loss between its floor and chance, and the kNN probe.

    The first may look stuck while the second climbs.

    Args:
        history: columns epoch, loss and, of epochs that were probed, knn.
        n_pairs: images of a batch.
        title: which network, on what.
        probe_name: the labelled set that the probe classifies.
    """
    figure, axes = axes_grid(1, 2, 4.6, 3.4, title)
    loss, knn = axes[0]
    dots, own = {"marker": "o", "ms": 3}, PRETRAINED_COLORS[0]
    trained = history[history["epoch"] > 0]
    loss.plot(trained["epoch"], trained["loss"], color=own, label="training loss", **dots)
    chance, floor = np.log(2 * n_pairs - 1), nt_xent_floor(n_pairs, temperature)
    loss.axhline(chance, color="0.4", ls=":", label=f"chance, log(2N − 1) = {chance:.2f}")
    loss.axhline(floor, color="0.1", ls="--", label=f"floor for unit vectors = {floor:.2f}")
    loss.set_title(f"contrastive loss, N = {n_pairs}, τ = {temperature}", fontsize=10)
    loss.set(xlabel="epoch", ylabel="NT-Xent")
    probed = history.reindex(columns=["epoch", "knn"]).dropna()  # not every epoch, or never
    percent = 100 * probed["knn"]
    knn.plot(probed["epoch"], percent, color=own, label="this encoder", **dots)
    if len(probed):
        untrained = {"color": UNTRAINED_COLOR, "ls": ":", "lw": 2}
        knn.axhline(percent.iloc[0], label="untrained encoder", **untrained)
    knn.set_title(f"kNN probe{probe_name and f' on {probe_name}'} (val)", fontsize=10)
    knn.set(xlabel="epoch", ylabel="accuracy, %")
    for axis in (loss, knn):
        axis.legend(fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def finetuning_curves(histories: dict[str, pd.DataFrame], *, title: str = "") -> Figure:
    """Validation accuracy of every arm over its learning rate.

    The shading tells how much of a pretrained arm is open.

    Args:
        histories: arm → columns epoch, val_accuracy, lr, open.
        title: which network.
    """
    figure, axes = axes_grid(2, 1, 8.0, 2.2, title, sharex=True, height_ratios=[2, 1])
    accuracy, rate = axes[:, 0]
    colors = arm_colors(histories)
    for arm, history in histories.items():
        epoch, percent, color = history["epoch"], 100 * history["val_accuracy"], colors[arm]
        accuracy.plot(epoch, percent, marker="o", ms=3, color=color, label=arm)
        rate.plot(epoch, history["lr"], color=color)
    _shade_phases(accuracy, rate, max(histories.values(), key=lambda h: h["open"].nunique()))
    accuracy.set(ylabel="val accuracy, %")
    accuracy.legend(fontsize=8, loc="lower right")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    lowest = min(history["lr"].iloc[0] for history in histories.values())
    bottom = lowest / 100  # the cosine ends near 0
    rate.set(ylabel="learning rate", yscale="log", ylim=(bottom, None))
    rate.set_xlabel(
        "epoch (shading: what learns in a pretrained arm; from scratch everything does)"
    )
    return figure


def _shade_phases(accuracy: Axes, rate: Axes, history: pd.DataFrame) -> None:
    """Shade the epochs by the number of stages that are open, and name the phases."""
    names = {1: "head only", 2: "head, last stage"}
    for number, (stages, epochs) in enumerate(history.groupby("open")["epoch"]):
        first, last = epochs.min() - 0.5, epochs.max() + 0.5
        for axis in (accuracy, rate):
            axis.axvspan(first, last, color="k", alpha=0.11 - 0.05 * number, lw=0)
        height = 1.03 + 0.08 * (number % 2)  # in one line the names of short phases would touch
        name, over = names.get(stages, "everything open"), (epochs.mean(), height)
        place = ("data", "axes fraction")
        accuracy.annotate(name, over, xycoords=place, fontsize=8, ha="center")


def confusion(
    labels: np.ndarray, predictions: np.ndarray, classes: list[str], title: str
) -> Figure:
    """Confusion matrix in percent of the true class, whose number of images stands at its name."""
    counts = confusion_matrix(labels, predictions, labels=range(len(classes)))
    of_class = counts.sum(1)
    shares = counts / np.maximum(of_class, 1)[:, None]
    true = [f"{name} ({n:,})" for name, n in zip(classes, of_class, strict=True)]
    side = np.clip(2.6 + 0.34 * len(classes), 4.4, 9.2)
    figure, axes = axes_grid(1, 1, max(side, 6.2), side, title)
    axis = axes[0, 0]
    draw_matrix(axis, shares, (true, classes), "Blues", ".0%", (0, 1))
    axis.set(xlabel="predicted class", ylabel="true class (images)")
    axis.set_title(f"share of the true class, n = {len(labels):,}", fontsize=9)
    return figure
