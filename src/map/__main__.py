"""Command line: `python -m src.map SCENE --checkpoint MODEL.pth --out FOLDER`."""

import argparse
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

from src.checkpoints import load
from src.data.known import data_of
from src.errors import exit_with_message
from src.figures.canvas import save
from src.map.figures import map_panels
from src.map.fitting import fit_thresholds
from src.map.scene import RADIOMETRY, SceneOptions, open_scene
from src.map.scene_map import map_scene
from src.map.thresholds import (
    DEFAULT_MASK,
    SCORES,
    WITHOUT_FEATURES,
    Thresholds,
    check_exists,
    thresholds_path,
)
from src.runs.runtime import Runtime, add_arguments, from_arguments


def main() -> None:
    """Map a scene, draw it, and say how much of the map is not to be believed."""
    args = _parser().parse_args()
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    with exit_with_message():
        runtime = from_arguments(args)
        options = SceneOptions(
            **{field.name: getattr(args, field.name) for field in fields(SceneOptions)}
        )
        with open_scene(args.scene, options) as scene:
            print(f"{args.scene} on {runtime}\n{scene.described()}")
        thresholds = _thresholds(args, runtime)
        how = {"score": args.score, "stride": args.stride, "runtime": runtime}
        summary = map_scene(args.scene, args.checkpoint, args.out, thresholds, options, **how)
        picture = Path(args.out) / "map.png"
        save(map_panels(args.scene, args.out, options), picture)
    _tell(summary, picture)


def _tell(summary: dict[str, Any], picture: Path) -> None:
    if summary["mapped"] < 1:
        why = ", ".join(f"{share:.1%} {what}" for what, share in summary["unmapped"].items())
        none = ", ".join(f"{value:g}" for value in summary["nodata"])
        unmapped = f"{1 - summary['mapped']:.1%} of the scene not mapped: {why}"
        print(f"{unmapped} (no data is {none} in all bands, a mask, or no number)")
    by = ", ".join(f"{name} {share:.1%}" for name, share in summary["flagged_by"].items())
    known = summary.get("trained_on", "its data")  # older maps do not say
    print(
        f"{summary['flagged']:.1%} of the mapped pixels flagged by"
        f" {' or '.join(summary['thresholds'])} (of {known}: {1 - summary['keep']:.0%}); {by}"
    )
    print(f"{summary['pixels_per_s']:,} pixels/s, {summary['seconds']} s; {picture}")


def _thresholds(args: argparse.Namespace, runtime: Runtime) -> Thresholds:
    """Those of the file, after fitting them anew if a store is given."""
    check_exists(args.checkpoint)
    if args.store:
        _, metadata = load(args.checkpoint)
        store, split = data_of(metadata, args.checkpoint, args.store)
        scores = list(dict.fromkeys([*WITHOUT_FEATURES, *args.score]))
        fitted = fit_thresholds(
            args.checkpoint, store, split, scores, keep=args.keep, runtime=runtime
        )
        file = args.thresholds or thresholds_path(args.checkpoint)
        print(f"thresholds: {fitted.save(file)}")
    if args.thresholds:
        return Thresholds.load(args.thresholds, args.checkpoint, args.score)
    return Thresholds.beside(args.checkpoint, args.score)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.map", description="Map a scene, and where not to believe the map."
    )
    default, add = "(default: %(default)s)", parser.add_argument
    add("scene", help="GeoTIFF, folder of band files (B04.tif …), or SAFE folder")
    add("--checkpoint", required=True, help="final_supervised_model_….pth")
    add("--out", required=True, help="folder for the rasters, map.json and map.png")
    add("--stride", type=int, default=32, help=f"pixels from tile to tile {default}")
    add_arguments(parser)
    _add_reading(parser)
    add = parser.add_argument_group("what is flagged").add_argument
    either = "OOD score, or two, either of which flags, at half the share"
    unflagged = f"share of validation tiles that stay unflagged {default}"
    add(
        "--score", nargs="+", choices=SCORES, default=list(DEFAULT_MASK), help=f"{either} {default}"
    )
    add("--thresholds", help="file of thresholds (default: beside the checkpoint)")
    add("--store", help="what the checkpoint was trained with (set, folder, store): fit thresholds")
    add("--keep", type=float, default=0.95, help=unflagged)
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """The options of `SceneOptions`, by its names."""
    add, defaults = parser.add_argument_group("how the scene is read").add_argument, SceneOptions()
    bands = "names or numbers from 1 in the network's order (default: red, green, blue by names)"
    scale = "10000 for reflectance in 0…1 (default: by the file's tags, else by its values)"
    offset = "what the producer added, 1000 since 2022 (default: by tags, metadata, names, or a"
    tones = "haze: add the air's light to level 2A; match: EuroSAT's means (default: %(default)s)"
    missing = "share of a tile's pixels that may be missing (default: %(default)s)"
    add("--bands", nargs="+", help=bands)
    add("--scale", type=float, help=scale)
    add("--offset", type=float, help=f"{offset} guess, with a warning)")
    add("--nodata", type=float, help="value of missing pixels, where the file does not say it")
    add("--white", type=float, help="digital number that an 8-bit picture shows as 255")
    add("--missing", type=float, default=defaults.missing, help=missing)
    add("--radiometry", choices=RADIOMETRY, default=defaults.radiometry, help=tones)


if __name__ == "__main__":
    main()
