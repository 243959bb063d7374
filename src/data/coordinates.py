"""Where each EuroSAT image lies, from its 13-band GeoTIFF.

Command line: `python -m src.data.coordinates FOLDER data/eurosat_latlon.csv`.
"""

import argparse
from pathlib import Path

import pandas as pd

from src.data.folders import find_class_folders, list_images
from src.data.images import CLASSES, EUROSAT_ALLBANDS
from src.errors import DataError, exit_with_message


def locate(root: str | Path) -> pd.DataFrame:
    """Table of name, latitude and longitude of the 13-band GeoTIFFs in class folders in `root`.

    Places are the images' centres in degrees (WGS 84). The JPEGs have no place; their names and
    numbers are the same, so this places them too.

    Raises:
        DataError: folder or class missing or empty, a file that is unreadable or has no place.
    """
    wanted = CLASSES, EUROSAT_ALLBANDS.suffixes
    listing = list_images(find_class_folders(Path(root), *wanted, EUROSAT_ALLBANDS.title), *wanted)
    places = [(file.stem, *_centre(file)) for file in listing.files]
    return pd.DataFrame(places, columns=["name", "latitude", "longitude"])


def _centre(file: Path) -> tuple[float, float]:
    """Latitude and longitude in degrees, to about a metre."""
    import rasterio
    from rasterio.warp import transform

    try:
        with rasterio.open(file) as image:
            crs = image.crs
            x, y = image.xy((image.height - 1) / 2, (image.width - 1) / 2)
    except rasterio.errors.RasterioError as error:
        raise DataError(f"{file} cannot be read ({error}): download or extract it again") from error
    if crs is None:
        raise DataError(f"{file} has no coordinate system: download or extract it again")
    (longitude,), (latitude,) = transform(crs, "EPSG:4326", [x], [y])
    return round(latitude, 5), round(longitude, 5)


def main() -> None:
    """Write the table as CSV."""
    parser = argparse.ArgumentParser(
        prog="python -m src.data.coordinates", description="Where each image of EuroSAT lies."
    )
    parser.add_argument("folder", type=Path, help="class folders of the 13-band GeoTIFFs")
    parser.add_argument(
        "csv",
        type=Path,
        help="name, latitude, longitude; the audit looks for data/eurosat_latlon.csv",
    )
    args = parser.parse_args()
    with exit_with_message():
        locate(args.folder).to_csv(args.csv, index=False)
    print(args.csv)


if __name__ == "__main__":
    main()
