"""Features of one's own images, for anybody's pipeline: an encoder, a folder or a store in; `.npy`
and Parquet out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from src.augmentations.evaluation_transform import prepare
from src.checkpoints import load, load_classifier, load_encoder, replacing
from src.data.images import read_image
from src.data.store import PatchStore
from src.errors import CheckpointError, DataError
from src.runs.runtime import Runtime, pick

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def any_encoder(path: str | Path) -> tuple[nn.Module, dict]:
    """The encoder of a pretraining or of a fine-tuning checkpoint, in eval mode, and what is known
    about it.
    """
    if "encoder" in load(path)[0]:
        return load_encoder(path)
    classifier, about = load_classifier(path)
    return classifier.encoder, about


def embed_to_files(
    source: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    runtime: Runtime | None = None,
    batch_size: int = 256,
) -> tuple[Path, Path]:
    """Write `features.npy`, (N, D) float32, and `index.parquet`, whose row n says what row n of the
    features is of.

    Args:
        source: a PatchStore, or a folder searched through for 8-bit RGB images (JPEG, PNG, TIFF) of
            any size; each is resized to what the encoder sees, by the transform of evaluation.
        checkpoint: of notebooks 01 to 07.
        out: folder. The index has the columns `name` (a path within `source`, or the store's name)
            and, of a store with labels, `label`; its `attrs` name the checkpoint and its encoder.

    Returns:
        The two files. They appear only when whole.

    Raises:
        DataError: no images there, one that cannot be read, or one with other bands than the
            encoder's.
        CheckpointError: an unusable checkpoint.
    """
    runtime, out = runtime or pick(), Path(out)
    encoder, about = any_encoder(checkpoint)
    encoder = encoder.to(runtime.device)
    index, batches = _opened(Path(source), batch_size)
    index.attrs = {"checkpoint": Path(checkpoint).name, "encoder": about["config"]["encoder"]}
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "features.npy") as features, replacing(out / "index.parquet") as rows:
        shape = (len(index), encoder.feature_dim)
        array, at = np.lib.format.open_memmap(features, "w+", np.float32, shape), 0
        for images in tqdm(
            batches, total=-(-len(index) // batch_size), desc="embedding", unit="batch"
        ):
            array[at : at + len(images)] = _features(
                encoder, images, about["config"]["in_channels"], runtime
            )
            at += len(images)
        array.flush()
        index.to_parquet(rows, index=False)
    return out / "features.npy", out / "index.parquet"


def _opened(source: Path, batch_size: int) -> tuple[pd.DataFrame, Iterator[list[np.ndarray]]]:
    """What there is, and an iterator of lists of (H, W, C) images."""
    if (source / "meta.json").is_file():
        store = PatchStore.open(source)
        index = pd.DataFrame({"name": store.names})
        if store.labels is not None:
            index["label"] = np.array(store.meta["classes"])[store.labels]
        return index, (
            list(store.images[n : n + batch_size]) for n in range(0, len(store), batch_size)
        )
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"{source} is no store and holds no images ({', '.join(SUFFIXES)}): give another folder"
        )
    index = pd.DataFrame({"name": [file.relative_to(source).as_posix() for file in files]})
    return index, (
        [read_image(f) for f in files[n : n + batch_size]] for n in range(0, len(files), batch_size)
    )


@torch.inference_mode()
def _features(
    encoder: nn.Module, images: list[np.ndarray], channels: int, runtime: Runtime
) -> np.ndarray:
    found = {image.shape[-1] for image in images}
    if found != {channels}:
        raise DataError(
            f"the encoder takes {channels} bands, the images have {sorted(found)}: give another"
            " checkpoint"
        )
    if len({image.shape for image in images}) == 1:  # the usual case, in one go
        batch = prepare(np.stack(images), encoder.image_size, runtime.device)
    else:
        batch = torch.cat(
            [prepare(np.stack([image]), encoder.image_size, runtime.device) for image in images]
        )
    with runtime.autocast():
        return encoder(batch).float().cpu().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m src.embed", description="Features of images as .npy and Parquet."
    )
    parser.add_argument("source", help="folder of images, or a store")
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="best_contrastive_model_….pth or final_supervised_model_….pth",
    )
    parser.add_argument("--out", required=True, help="folder for features.npy and index.parquet")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "bfloat16", "float32"])
    args = parser.parse_args()
    try:
        runtime = pick(args.device, args.precision)
        features, index = embed_to_files(
            args.source, args.checkpoint, args.out, runtime=runtime, batch_size=args.batch_size
        )
    except (DataError, CheckpointError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{features} and {index}: {np.load(features, mmap_mode='r').shape} on {runtime}")


if __name__ == "__main__":
    main()
