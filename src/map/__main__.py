"""Command line: `python -m src.map SCENE --checkpoint MODEL.pth --out FOLDER`."""

import argparse
import warnings
from pathlib import Path

from src.checkpoints import load_classifier
from src.data.splits import stratified_split
from src.data.store import PatchStore
from src.errors import CheckpointError, DataError
from src.map.scene_map import map_scene
from src.map.thresholds import DEFAULT_SCORE, SCORES, Thresholds, fit_thresholds, thresholds_path
from src.runs.runtime import pick

# --- command line ---


def main() -> None:
    from src.figures.canvas import save
    from src.map.figures import map_panels

    parser = argparse.ArgumentParser(
        prog="python -m src.map", description="Map a scene, and where not to believe the map."
    )
    parser.add_argument("scene", help="GeoTIFF, folder of band files (B04.tif …), or SAFE folder")
    parser.add_argument("--checkpoint", required=True, help="final_supervised_model_….pth")
    parser.add_argument("--out", required=True, help="folder for the rasters, map.json and map.png")
    parser.add_argument("--score", choices=SCORES, default=DEFAULT_SCORE, help="OOD score")
    parser.add_argument("--stride", type=int, default=32, help="pixels from tile to tile")
    parser.add_argument(
        "--bands", nargs="+", help="names or numbers from 1, in the network's order (B04 B03 B02)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="10000 for reflectance in 0…1")
    parser.add_argument(
        "--offset",
        type=float,
        help="what the producer added (1000 since 2022); SAFE folders say it",
    )
    parser.add_argument(
        "--nodata", type=float, help="value of missing pixels, where the file does not say it"
    )
    parser.add_argument(
        "--store", help="EuroSAT store the checkpoint was trained with: calibrate anew"
    )
    parser.add_argument("--calibration", help="default: beside the checkpoint")
    parser.add_argument(
        "--keep", type=float, default=0.95, help="share of validation tiles that stay unflagged"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "bfloat16", "float32"])
    args = parser.parse_args()
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        runtime = pick(args.device, args.precision)
        file = Path(args.calibration or thresholds_path(args.checkpoint))
        if args.store:
            model, about = load_classifier(args.checkpoint)
            store = PatchStore.open(args.store)
            split = stratified_split(store, about["config"]["seed"])
            fit_thresholds(
                model,
                about,
                args.checkpoint,
                store,
                split,
                [args.score],
                keep=args.keep,
                runtime=runtime,
            ).save(file)
            print(f"calibration: {file}")
        options = {
            name: getattr(args, name)
            for name in ("score", "stride", "bands", "scale", "offset", "nodata")
        }
        calibration = Thresholds.load(file, args.checkpoint, args.score)
        print(f"{args.scene} on {runtime}")
        summary = map_scene(
            args.scene, args.checkpoint, args.out, calibration, **options, runtime=runtime
        )
        shown = {name: options[name] for name in ("scale", "offset", "nodata")}
        picture = save(
            map_panels(args.scene, args.out, args.bands, **shown), Path(args.out) / "map.png"
        )
    except (DataError, CheckpointError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(
        f"{summary['flagged']:.1%} of the mapped pixels flagged by {args.score} (of EuroSAT:"
        f" {1 - summary['keep']:.0%})"
    )
    print(f"{summary['pixels_per_s']:,} pixels/s, {summary['seconds']} s; {picture}")


if __name__ == "__main__":
    main()
