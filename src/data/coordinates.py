"""Where each EuroSAT image lies, from its 13-band GeoTIFF.

Command line: `python -m src.data.coordinates FOLDER data/eurosat_latlon.csv`.
"""

import argparse
from pathlib import Path

import pandas as pd

from src.data.images import CLASSES, class_folders
from src.errors import DataError


def coordinates(root: str | Path) -> pd.DataFrame:
    """name, latitude, longitude (of the centre, degrees, WGS 84) of 13-band GeoTIFFs in the class
    folders of `root`.

    The JPEGs have no place; their names and numbers are the same, so this places them too.

    Raises:
        DataError: folder or class missing or empty, a file that is unreadable or has no place.
    """
    import rasterio
    from rasterio.warp import transform

    places = []
    for file in (
        file for files in class_folders(Path(root), CLASSES, "*.tif").values() for file in files
    ):
        try:
            with rasterio.open(file) as image:
                (x, y), crs = image.xy((image.height - 1) / 2, (image.width - 1) / 2), image.crs
        except rasterio.errors.RasterioError as error:
            raise DataError(
                f"{file} cannot be read ({error}): download or extract it again"
            ) from error
        if crs is None:
            raise DataError(f"{file} has no coordinate system: download or extract it again")
        (longitude,), (latitude,) = transform(crs, "EPSG:4326", [x], [y])
        places.append((file.stem, round(latitude, 5), round(longitude, 5)))
    return pd.DataFrame(places, columns=["name", "latitude", "longitude"])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m src.data.eurosat", description="Where each image of EuroSAT lies."
    )
    parser.add_argument("folder", type=Path, help="class folders of the 13-band GeoTIFFs")
    parser.add_argument(
        "csv",
        type=Path,
        help="name, latitude, longitude; the audit looks for data/eurosat_latlon.csv",
    )
    args = parser.parse_args()
    try:
        coordinates(args.folder).to_csv(args.csv, index=False)
    except (DataError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(args.csv)


if __name__ == "__main__":
    main()
