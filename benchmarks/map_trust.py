"""Does the mask know what the classifier does not? Two classifiers, with and without strange tones.

    python benchmarks/map_trust.py data/stores/eurosat --checkpoints A.pth B.pth --scenes S1 S2 \\
        --sets ucmerced=FOLDER resisc45=FOLDER satlab=FOLDER

Accuracy on EuroSAT's test images as they are, in strange tones and as level 2A would have them;
and the share flagged by energy, by the pixel statistics, and by either at half the share each, of
these, of other sets and of scenes by each radiometry. Writes `results/map_trust.csv`.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import torch

from src.augmentations.resampling import resize, to_unit
from src.augmentations.tones import draw_tones, path_reflectance, transmittance
from src.checkpoints import load_classifier
from src.data.bands import to_uint8
from src.data.images import read_image
from src.data.known import data_of
from src.data.store import PatchStore
from src.map import SceneOptions, Thresholds, open_scene
from src.map.scene import RADIOMETRY
from src.map.scene_checks import radiometry, rendered
from src.ood import penultimate
from src.runs.runtime import generator, pick

STRETCH, PAIR = 2750.0, ("energy", "pixel_mahalanobis")


def in_strange_tones(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 with tones drawn as training with tones draws them, other numbers."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    toned = draw_tones(x, generator(99), 1.0).permute(0, 2, 3, 1).numpy()
    return np.round(255 * toned).astype(np.uint8)


def as_level_2a(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 with the air's light taken away, and what it absorbed given back."""
    path, share = (np.array(f(3)) for f in (path_reflectance, transmittance))
    numbers = (images * (STRETCH / 255) - 1e4 * path) / share
    return np.round(numbers / STRETCH * 255).clip(0, 255).astype(np.uint8)


def folder_images(folder: Path, size: int, step: int) -> np.ndarray:
    """(N, size, size, 3) uint8 of all images below a folder, four-band uint16 ones rendered."""
    found = []
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in (".jpg", ".tif"))
    for file in files[::step]:
        with rasterio.open(file) as opened:
            if opened.dtypes[0] == "uint16":  # SatLab: bands 2, 3, 4 and 8A
                image = to_uint8(opened.read([3, 2, 1]).transpose(1, 2, 0), STRETCH)
            else:
                image = read_image(file)
        x = to_unit(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
        found.append(np.round(255 * resize(x, size)[0].permute(1, 2, 0).numpy()).astype(np.uint8))
    return np.stack(found)


def test_sets(metadata: dict, checkpoint: str, store: str, step: int) -> dict[str, tuple]:
    """Name → images and labels of what this classifier was not trained on: each has its split."""
    data, split = data_of(metadata, checkpoint, store)
    images, truth = (x[split.test[::step]] for x in (data.images, data.labels))
    return {
        "EuroSAT test": (images, truth),
        "EuroSAT test in strange tones": (in_strange_tones(images), truth),
        "EuroSAT test as level 2A": (as_level_2a(images), truth),
    }


def tiles_of(pixels: np.ndarray, tile: int) -> np.ndarray:
    """(H, W, 3) → (N, tile, tile, 3), side by side from the upper left."""
    rows, columns = (length // tile for length in pixels.shape[:2])
    cut = pixels[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile, -1)
    return cut.swapaxes(1, 2).reshape(-1, tile, tile, pixels.shape[-1])


def scored(model, thresholds: Thresholds, images: np.ndarray) -> dict[str, np.ndarray]:
    """Class and the scores of PAIR of each image."""
    features = penultimate(model, images, pick())
    classes = thresholds.train(model).logits(features).argmax(-1)
    return {"class": classes} | {n: thresholds.score(n, model, features, images) for n in PAIR}


def row(found: dict, thresholds: Thresholds, truth: np.ndarray | None = None) -> dict:
    """Accuracy where the truth is known, what is flagged, and the commonest classes."""
    alone = {name: found[name] > thresholds.of([name])[0] for name in PAIR}
    both = [found[name] > limit for name, limit in zip(PAIR, thresholds.of(PAIR), strict=True)]
    names, counts = np.unique(found["class"], return_counts=True)
    order = np.argsort(-counts)[:3]
    common = (
        f"{thresholds.metadata['classes'][names[n]]} {counts[n] / counts.sum():.0%}" for n in order
    )
    return {
        "images": len(found["class"]),
        "accuracy": np.nan if truth is None else (found["class"] == truth).mean(),
        **{f"flagged by {name}": flags.mean() for name, flags in alone.items()},
        "flagged by either at half": (both[0] | both[1]).mean(),
        "classes": ", ".join(common),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--checkpoints", nargs="+", required=True)
    parser.add_argument("--scenes", nargs="*", default=[])
    parser.add_argument("--sets", nargs="*", default=[], help="name=folder")
    parser.add_argument("--step", type=int, default=1, help="every n-th image (default: all)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # pictures lie nowhere
    size, rows = PatchStore.open(args.store).images.shape[1], []
    others = {
        name: (folder_images(Path(folder), size, args.step), None)
        for name, folder in (pair.split("=") for pair in args.sets)
    }
    for checkpoint in args.checkpoints:
        (model, metadata), thresholds = load_classifier(checkpoint), Thresholds.beside(checkpoint)
        sets = test_sets(metadata, checkpoint, args.store, args.step) | others
        known = {
            name: row(scored(model, thresholds, x), thresholds, y) for name, (x, y) in sets.items()
        }
        for scene in args.scenes:
            for kind in RADIOMETRY:
                with open_scene(scene, SceneOptions(radiometry=kind)) as opened:
                    tone = radiometry(opened, thresholds.metadata)
                    pixels = rendered(opened.read()[0], thresholds.metadata, tone)
                seen = tiles_of(pixels, thresholds.metadata["tile"])
                known[f"{Path(scene).name}, {kind}"] = row(
                    scored(model, thresholds, seen), thresholds
                )
        rows += [
            {"checkpoint": Path(checkpoint).stem, "of": name, **r} for name, r in known.items()
        ]
        print(pd.DataFrame(rows[-len(known) :]).drop(columns="checkpoint").round(4).to_string())
    pd.DataFrame(rows).round(4).to_csv(
        Path(__file__).with_name("results") / "map_trust.csv", index=False
    )


if __name__ == "__main__":
    main()
