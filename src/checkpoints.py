"""Checkpoints: their names, saving and loading. Tensors and plain values only, never a pickle."""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from torch import nn

from src.encoders import Classifier, build_encoder
from src.errors import CheckpointError

FORMAT_VERSION = 1
# what torch.compile and DistributedDataParallel put before every key: a file must load without it
WRAPPERS = ("_orig_mod", "module")


def contrastive_name(epochs: int, batch_size: int, loss: float, when: datetime) -> str:
    """For example `best_contrastive_model_50Ep_32BS_Loss2_2010_20251215_061439.pth`."""
    value = f"{loss:.4f}".replace(".", "_")
    return f"best_contrastive_model_{epochs}Ep_{batch_size}BS_Loss{value}_{_stamp(when)}.pth"


def contrastive_alias(epochs: int) -> str:
    """The short name under which notebooks 05–07 look for a pretrained encoder."""
    return f"best_contrastive_model_{epochs}Ep.pth"


def supervised_name(accuracy: float, when: datetime, arm: str = "progressive_unfr") -> str:
    """For example `final_supervised_model_progressive_unfr_acc93.22_20251220_010103.pth`.

    accuracy: in 0…1.
    """
    return f"final_supervised_model_{arm}_acc{100 * accuracy:.2f}_{_stamp(when)}.pth"


def _stamp(when: datetime) -> str:
    return when.strftime("%Y%m%d_%H%M%S")


def clean_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's state dict on the CPU, contiguous, without the prefixes of wrappers."""
    state = {}
    for key, tensor in module.state_dict().items():
        key = ".".join(part for part in key.split(".") if part not in WRAPPERS)
        state[key] = tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
    return state


# --- writing ---


class replacing:
    """Write to a temporary name; rename over the target on success, remove on failure."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.partial = target.with_name(f".{target.name}.partial-{os.getpid()}")

    def __enter__(self) -> Path:
        return self.partial

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            self.partial.unlink(missing_ok=True)
            return
        with open(self.partial, "rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the name without the content
        self.partial.replace(self.target)


def save(path: str | Path, state: dict[str, Any], metadata: dict[str, Any]) -> Path:
    """Write dicts of tensors and plain values, and what is known of them, as one file.

    `metadata` (config, epoch, metrics, versions: JSON values) is also written to a `.json` beside
    the file, for people. Both appear under their names only when whole: a crash on the way leaves
    what was there before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # raises before anything is written if a value isn't plain
    text = json.dumps({"format": FORMAT_VERSION, **metadata}, indent=1)
    with replacing(path.with_suffix(".json")) as beside, replacing(path) as partial:
        beside.write_text(text + "\n")
        torch.save({"state": state, "about": json.loads(text)}, partial)
    return path


def copy(source: Path, target: Path) -> Path:
    """Copy a checkpoint and its `.json` to another name, each atomically."""
    for suffix in (".json", ".pth"):
        with replacing(target.with_suffix(suffix)) as partial:
            shutil.copyfile(source.with_suffix(suffix), partial)
    return target


# --- reading ---


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint on the CPU: (state, metadata) as given to `save`.

    Raises:
        CheckpointError: missing, truncated, holding code, of another program, or of a newer format.
    """
    path = Path(path)
    content = _read(path)
    expected = isinstance(content, dict) and content.keys() == {"state", "about"}
    if not expected or "format" not in content["about"]:
        raise CheckpointError(
            f"{path} was not written by ood-satellite: expected the keys 'state' and 'about'"
        )
    version = content["about"]["format"]
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version}, this code reads up to {FORMAT_VERSION}: "
            "update ood-satellite"
        )
    return content["state"], content["about"]


def _read(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint {path}: run the notebook that makes it, or check the name"
        )
    if not is_zipfile(path):
        raise CheckpointError(
            f"{path} is not a whole checkpoint (truncated, or not a .pth file): copy or make it "
            "again"
        )
    try:
        with ZipFile(path) as file:
            # torch checks no checksums: a flipped bit would load as another weight
            if damaged := file.testzip():
                raise BadZipFile(f"checksum of {damaged}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, so it could run code when loaded: "
            f"refused. Export its state dict where you trust it. ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy or make it again") from error


def restore(module: nn.Module, state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Load a state dict strictly: every key there, no key more, every shape equal.

    Raises:
        CheckpointError: it belongs to another architecture.
    """
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        message = f"{path} does not fit {type(module).__name__}: {str(error)[:500]}"
        raise CheckpointError(message) from error


def load_encoder(path: str | Path, expect: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The pretrained encoder of a checkpoint in eval mode, built as its config says, and metadata.

    Raises:
        CheckpointError: unusable file (see `load`), no encoder in it, or another than `expect`.
    """
    state, metadata = load(path)
    if "encoder" not in state:
        raise CheckpointError(
            f"{path} holds no encoder but {sorted(state)}: expected a pretraining checkpoint"
        )
    encoder = _build(metadata["config"], path, expect)
    restore(encoder, state["encoder"], path)
    return encoder.eval(), metadata


def load_classifier(
    path: str | Path, expect: str | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """The fine-tuned classifier of a checkpoint in eval mode, and metadata.

    Raises:
        CheckpointError: unusable file (see `load`), no classifier in it, or another encoder than
            `expect`.
    """
    state, metadata = load(path)
    if "classifier" not in state:
        raise CheckpointError(
            f"{path} holds no classifier but {sorted(state)}: expected a fine-tuning checkpoint"
        )
    config, classes = metadata["config"], metadata["classes"]
    classifier = Classifier(_build(config, path, expect), len(classes), config["dropout"])
    restore(classifier, state["classifier"], path)
    return classifier.eval(), metadata


def best_classifier(folder: str | Path) -> Path:
    """Of the fine-tuned classifiers in a folder the one with the highest validation accuracy.

    Raises:
        CheckpointError: there is none, or one that can't be used.
    """
    files = sorted(Path(folder).glob("final_supervised_model_*.pth"))
    if not files:
        raise CheckpointError(
            f"no classifier in {folder}: run notebook 05 (06 and 07 for the large encoders) first"
        )
    return max(files, key=lambda file: load(file)[1]["metrics"]["val_accuracy"])


def _build(config: dict[str, Any], path: str | Path, expect: str | None) -> nn.Module:
    name = config["encoder"]
    if expect is not None and name != expect:
        raise CheckpointError(
            f"{path} holds the encoder {name!r}, expected {expect!r}: pick another file"
        )
    return build_encoder(name, config["in_channels"], config["image_size"], config["dropout"])
