"""Features of one's own images, for any other tool: a folder or a store in, files out.

Command line: `python -m src.embed FOLDER_OR_STORE --checkpoint MODEL.pth --out FOLDER`.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from src.augmentations.evaluation_transform import prepare
from src.checkpoints import load, load_classifier, load_encoder, replacing
from src.checks import COUNT, check_images, check_number
from src.data.bars import bar
from src.data.folders import is_hidden
from src.data.images import read_image
from src.data.store import PatchStore, write_header
from src.encoders import statistics_of
from src.errors import DataError, exit_with_message
from src.runs.runtime import Runtime, add_arguments, from_arguments, pick
from src.runs.states import require_room

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
Batches = Iterator[list[np.ndarray]]  # lists of (H, W, C) images


def embed_to_files(
    source: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    runtime: Runtime | None = None,
    batch_size: int = 256,
) -> tuple[Path, Path]:
    """Write features as an array, and an index whose row n says what row n of the array is of.

    Args:
        source: a PatchStore, or a folder searched through for 8-bit RGB images (JPEG, PNG, TIFF) of
            any size; each is resized to what the encoder sees, by the transform of evaluation.
        checkpoint: of a pretraining or of a fine-tuning.
        out: folder for `features.npy`, (N, D) float32, and `index.parquet` with the columns `name`
            (a path within `source`, or the store's name) and, of a store with labels, `label`; its
            `attrs` name the checkpoint and its encoder.

    Returns:
        The two files. They appear only when whole.

    Raises:
        DataError: no images there, one that cannot be read, or one with other bands than the
            encoder's.
        ValueError: pixels that cannot be what they say (`check_images`), or batch_size < 1.
        OSError: too little room, or the disk fills up.
        CheckpointError: an unusable checkpoint.
    """
    check_number(batch_size, "batch_size", COUNT)
    import pyarrow  # noqa: F401 (not only when the index is written, after all the work)

    runtime, out = runtime or pick(), Path(out)
    encoder, metadata = load_encoder_of_any(checkpoint)
    encoder, config = encoder.to(runtime.device), metadata["config"]
    index, batches = _open_source(Path(source), batch_size)
    index.attrs = {"checkpoint": Path(checkpoint).name, "encoder": config["encoder"]}
    out.mkdir(parents=True, exist_ok=True)
    array_file, index_file = out / "features.npy", out / "index.parquet"
    with replacing(array_file) as partial_array, replacing(index_file) as partial_index:
        shape = (len(index), encoder.feature_dim)
        require_room(out, 4 * math.prod(shape), "the array of features")
        count = -(-len(index) // batch_size)
        # written, not mapped: a map on a disk that is full ends the process without a word
        with open(partial_array, "wb") as array:
            write_header(array, shape[0], shape[1:], np.dtype(np.float32))
            for images in bar(batches, desc="embedding", total=count, unit="batch"):
                _check_bands(images, config["in_channels"])
                array.write(_features(encoder, images, runtime).tobytes())
        index.to_parquet(partial_index, index=False)
    return array_file, index_file


def load_encoder_of_any(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The encoder of a pretraining or fine-tuning checkpoint in eval mode, and its metadata.

    Raises:
        CheckpointError: an unusable checkpoint.
    """
    state, _ = load(path)
    if "encoder" in state:
        return load_encoder(path)
    classifier, metadata = load_classifier(path)
    return classifier.encoder, metadata


def _open_source(source: Path, batch_size: int) -> tuple[pd.DataFrame, Batches]:
    """What there is, one row an image, and the images in that order."""
    if (source / "meta.json").is_file():
        return _open_store(source, batch_size)
    return _open_folder(source, batch_size)


def _open_store(source: Path, batch_size: int) -> tuple[pd.DataFrame, Batches]:
    store = PatchStore.open(source)
    check_images(store.images, str(source))
    index = pd.DataFrame({"name": store.names})
    if store.labels is not None:
        index["label"] = np.array(store.meta["classes"])[store.labels]
    starts = range(0, len(store), batch_size)
    return index, (list(store.images[n : n + batch_size]) for n in starts)


def _open_folder(source: Path, batch_size: int) -> tuple[pd.DataFrame, Batches]:
    found = (file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES)
    files = sorted(f for f in found if not any(map(is_hidden, f.relative_to(source).parts)))
    if not files:
        raise DataError(
            f"{source} is no store and holds no images ({', '.join(SUFFIXES)}): give another folder"
        )
    index = pd.DataFrame({"name": [file.relative_to(source).as_posix() for file in files]})
    starts = range(0, len(files), batch_size)
    return index, ([_read(file) for file in files[n : n + batch_size]] for n in starts)


def _read(file: Path) -> np.ndarray:
    """One (H, W, 3) uint8 image; of a raster of another kind the error says what it is."""
    try:
        return read_image(file)
    except DataError as error:
        kind = _raster_kind(file) if file.suffix.lower() in (".tif", ".tiff") else None
        if kind is None:
            raise
        raise DataError(
            f"{file} holds {kind}: src.embed takes 8-bit RGB images, or a store. Render it (digital"
            " number 2750 as 255, as EuroSAT), or map a whole scene with src.map"
        ) from error


def _raster_kind(file: Path) -> str | None:
    """Bands and type of a GeoTIFF that can be read but is no 8-bit RGB; None of any other file."""
    import rasterio

    try:
        with rasterio.open(file) as raster:
            kind = raster.count, raster.dtypes[0]
    except rasterio.errors.RasterioError:
        return None
    return None if kind == (3, "uint8") else f"{kind[0]} band(s) of {kind[1]}"


def _check_bands(images: list[np.ndarray], channels: int) -> None:
    bands = {image.shape[-1] for image in images}
    if bands != {channels}:
        raise DataError(
            f"the encoder takes {channels} bands, the images have {sorted(bands)}: give another"
            " checkpoint"
        )


@torch.inference_mode()
def _features(encoder: nn.Module, images: list[np.ndarray], runtime: Runtime) -> np.ndarray:
    """(n, D) float32 features of images that need not be of one size."""
    same_size = len({image.shape for image in images}) == 1  # the usual case, prepared in one go
    stacks = [images] if same_size else [[image] for image in images]
    how = (encoder.image_size, runtime.device, statistics_of(encoder))
    prepared = [prepare(np.stack(stack), *how) for stack in stacks]
    with runtime.autocast():
        return encoder(torch.cat(prepared)).float().cpu().numpy()


def main() -> None:
    """Embed what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m src.embed", description="Features of images as .npy and Parquet."
    )
    add = parser.add_argument
    names = "best_contrastive_model_….pth or final_supervised_model_….pth"
    add("source", help="folder of images, or a store")
    add("--checkpoint", required=True, help=names)
    add("--out", required=True, help="folder for features.npy and index.parquet")
    add("--batch-size", type=int, default=256, help="images (default: %(default)s)")
    add_arguments(parser)
    with exit_with_message():
        args = parser.parse_args()
        runtime = from_arguments(args)
        features, index = embed_to_files(
            args.source, args.checkpoint, args.out, runtime=runtime, batch_size=args.batch_size
        )
        shape = np.load(features, mmap_mode="r").shape
        print(f"{features} and {index}: {shape} on {runtime}")


if __name__ == "__main__":
    main()
