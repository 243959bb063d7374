"""Files of weights, ours or not, read without running what they hold."""

from argparse import Namespace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch

from src.errors import CheckpointError

OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin
PLAIN = [Namespace]  # what a script keeps its options as: values by name, and no code


def read(path: Path) -> Any:
    """What a file of torch's or of safetensors holds: tensors and plain values, on the CPU.

    Raises:
        CheckpointError: missing, truncated, holding code, or claiming more than it has.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint {path}: run the notebook that makes it, or check the name"
        )
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except CheckpointError:
        raise
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, so it could run code when loaded: "
            f"refused. Export its state dict where you trust it. ({str(error).splitlines()[0]})"
        ) from error
    # damage may lie anywhere in what Python and torch take for their own
    except Exception as error:
        reason = str(error)[:300] or type(error).__name__
        raise CheckpointError(f"{path} is damaged ({reason}): copy or make it again") from error


def _read_torch(path: Path) -> Any:
    with open(path, "rb") as file:
        is_old = file.read(len(OLD)) == OLD
    if not is_old:
        _check_archive(path)
    with torch.serialization.safe_globals(PLAIN):
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    if not is_zipfile(path):
        raise CheckpointError(
            f"{path} is not a whole checkpoint (truncated, or not a .pth file): copy or make it "
            "again"
        )
    with ZipFile(path) as file:
        # torch packs nothing, so a whole file is at least as long as what it unpacks to
        claimed = sum(entry.file_size for entry in file.infolist())
        if claimed > path.stat().st_size:
            raise BadZipFile(f"it claims {claimed:,} bytes, which is more than it has")
        # torch checks no checksums: a flipped bit would load as another weight
        if damaged := file.testzip():
            raise BadZipFile(f"checksum of {damaged}")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path} needs the package safetensors: install it") from error
    return load_file(path)
