"""Command line: `python -m src.map SCENE --checkpoint MODEL.pth --out FOLDER`."""

import argparse
import warnings
from pathlib import Path

from src.checkpoints import load
from src.data.splits import stratified_split
from src.data.store import PatchStore
from src.errors import exit_with_message
from src.figures.canvas import save
from src.map.figures import map_panels
from src.map.scene import SceneOptions
from src.map.scene_map import map_scene
from src.map.thresholds import DEFAULT_SCORE, SCORES, Thresholds, fit_thresholds, thresholds_path
from src.runs.runtime import Runtime, add_arguments, from_arguments


def main() -> None:
    """Map a scene, draw it, and say how much of the map is not to be believed."""
    args = _parser().parse_args()
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    with exit_with_message():
        runtime = from_arguments(args)
        thresholds = _thresholds(args, runtime)
        options = SceneOptions(args.bands, args.scale, args.offset, args.nodata)
        print(f"{args.scene} on {runtime}")
        how = {"score": args.score, "stride": args.stride, "runtime": runtime}
        summary = map_scene(args.scene, args.checkpoint, args.out, thresholds, options, **how)
        picture = Path(args.out) / "map.png"
        save(map_panels(args.scene, args.out, options), picture)
    print(
        f"{summary['flagged']:.1%} of the mapped pixels flagged by {args.score} (of EuroSAT:"
        f" {1 - summary['keep']:.0%})"
    )
    print(f"{summary['pixels_per_s']:,} pixels/s, {summary['seconds']} s; {picture}")


def _thresholds(args: argparse.Namespace, runtime: Runtime) -> Thresholds:
    """Those of the file, after fitting them anew if a store is given."""
    file = Path(args.thresholds or thresholds_path(args.checkpoint))
    if args.store:
        _, metadata = load(args.checkpoint)
        store = PatchStore.open(args.store)
        split = stratified_split(store, metadata["config"]["seed"])
        fitted = fit_thresholds(
            args.checkpoint, store, split, [args.score], keep=args.keep, runtime=runtime
        )
        print(f"thresholds: {fitted.save(file)}")
    return Thresholds.load(file, args.checkpoint, args.score)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.map", description="Map a scene, and where not to believe the map."
    )
    default = "(default: %(default)s)"
    add = parser.add_argument
    add("scene", help="GeoTIFF, folder of band files (B04.tif …), or SAFE folder")
    add("--checkpoint", required=True, help="final_supervised_model_….pth")
    add("--out", required=True, help="folder for the rasters, map.json and map.png")
    add("--stride", type=int, default=32, help=f"pixels from tile to tile {default}")
    add_arguments(parser)

    add = parser.add_argument_group("how the scene is read").add_argument
    in_order = "names or numbers from 1, in the network's order (default: B04 B03 B02)"
    added = "what the producer added, 1000 since 2022 (default: what a SAFE folder says, else 0)"
    add("--bands", nargs="+", help=in_order)
    add("--scale", type=float, default=1.0, help=f"10000 for reflectance in 0…1 {default}")
    add("--offset", type=float, help=added)
    add("--nodata", type=float, help="value of missing pixels, where the file does not say it")

    add = parser.add_argument_group("what is flagged").add_argument
    unflagged = f"share of validation tiles that stay unflagged {default}"
    add("--score", choices=SCORES, default=DEFAULT_SCORE, help=f"OOD score {default}")
    add("--thresholds", help="file of thresholds (default: beside the checkpoint)")
    add("--store", help="EuroSAT store the checkpoint was trained with: fit the thresholds anew")
    add("--keep", type=float, default=0.95, help=unflagged)
    return parser


if __name__ == "__main__":
    main()
