"""The pictures of training, of feature spaces and of detection.

Each function draws and returns one figure; `show` saves it and shows it in a notebook. The pictures
of maps and of the audit live with `src.map` and `audit`.
"""

from src.figures.canvas import redraw, samples, save, show
from src.figures.detection import (
    SCORE_NAMES,
    extremes,
    msp_both_ways,
    rejection_curves,
    reliability_diagram,
    roc,
    score_heatmap,
    score_histograms,
)
from src.figures.exploring import explore, nearest
from src.figures.palette import arm_colors, class_colormap, class_colors
from src.figures.projections import (
    class_boundaries,
    class_centroids,
    project,
    separation_captions,
    umap_grid,
    umap_panels,
)
from src.figures.training import confusion, finetuning_curves, pretraining_curves, view_pairs

__all__ = [
    "SCORE_NAMES",
    "arm_colors",
    "class_boundaries",
    "class_centroids",
    "class_colormap",
    "class_colors",
    "confusion",
    "explore",
    "extremes",
    "finetuning_curves",
    "msp_both_ways",
    "nearest",
    "pretraining_curves",
    "project",
    "redraw",
    "rejection_curves",
    "reliability_diagram",
    "roc",
    "samples",
    "save",
    "score_heatmap",
    "score_histograms",
    "separation_captions",
    "show",
    "umap_grid",
    "umap_panels",
    "view_pairs",
]
