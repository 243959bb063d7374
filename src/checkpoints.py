"""Checkpoints: their names, saving and loading. Tensors and plain values only, never a pickle."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.checks import SHARE, Range, check_number
from src.encoders import Classifier, build_encoder
from src.encoders.reading import read
from src.errors import CheckpointError

FORMAT_VERSION = 1
# what torch.compile and DistributedDataParallel put before every key: a file must load without it
WRAPPERS = ("_orig_mod", "module")
# what a config may ask for: a network is built before its weights are compared with it
LIMITS = {
    "in_channels": Range(1, high=1024, up_to=True, whole=True),
    "image_size": Range(8, high=4096, up_to=True, whole=True),  # pixels
    "dropout": Range(0, high=1),
}
MOST_CLASSES = 10_000


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
        # in containers every process may have the same number
        unique = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.partial = target.with_name(f".{target.name}.partial-{unique}")

    def __enter__(self) -> Path:
        return self.partial

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            self.partial.unlink(missing_ok=True)
            return
        with open(self.partial, "rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the name without the content
        self.partial.replace(self.target)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise CheckpointError, with what to do, where a checkpoint cannot be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of torch's
        raise CheckpointError(
            f"{path} could not be written ({str(error).splitlines()[0]}): make room or change its"
            " permissions, then run the same again"
        ) from error


def save(path: str | Path, state: dict[str, Any], metadata: dict[str, Any]) -> Path:
    """Write dicts of tensors and plain values, and what is known of them, as one file.

    `metadata` (config, epoch, metrics, versions: JSON values) is also written to a `.json` beside
    the file, for people. Both appear under their names only when whole: a crash on the way leaves
    what was there before.

    Raises:
        CheckpointError: it could not be written, as on a full disk.
    """
    path = Path(path)
    # raises before anything is written if a value isn't plain
    text = json.dumps({"format": FORMAT_VERSION, **metadata}, indent=1)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path.with_suffix(".json")) as beside, replacing(path) as partial:
            beside.write_text(text + "\n", encoding="utf-8")
            torch.save({"state": state, "about": json.loads(text)}, partial)
    return path


def copy(source: Path, target: Path) -> Path:
    """Copy a checkpoint to another name, and what is known of it to a `.json` beside that."""
    text = json.dumps(load(source)[1], indent=1)  # the `.json` beside the source may be missing
    beside_target = target.with_suffix(".json")
    with writing(target), replacing(beside_target) as beside, replacing(target) as partial:
        beside.write_text(text + "\n", encoding="utf-8")
        shutil.copyfile(source, partial)
    return target


# --- reading ---


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint on the CPU: (state, metadata) as given to `save`.

    Raises:
        CheckpointError: missing, truncated, holding code, claiming more than it has, of another
            program, or of a newer format.
    """
    path = Path(path)
    content = read(path)
    version = content["about"].get("format") if is_own(content) else None
    if type(version) is not int or version < 1:
        raise CheckpointError(
            f"{path} was not written by ood-satellite: expected the keys 'state' and 'about'"
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version}, this code reads up to {FORMAT_VERSION}: "
            "update ood-satellite"
        )
    return content["state"], content["about"]


def is_own(content: Any) -> bool:
    """Whether what a file holds is of this program."""
    expected = isinstance(content, dict) and content.keys() == {"state", "about"}
    return expected and all(isinstance(part, dict) for part in content.values())


def restore(module: nn.Module, state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Load a state dict strictly: every key there, no key more, every shape and type equal.

    Raises:
        CheckpointError: it belongs to another architecture, or holds what no training leaves: NaN
            or infinite weights, a negative variance.
    """
    _check_weights(module, state, path)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        message = f"{path} does not fit {type(module).__name__}: {str(error)[:500]}"
        raise CheckpointError(message) from error


def _check_weights(module: nn.Module, state: Any, path: str | Path) -> None:
    """What `load_state_dict` lets pass; shapes and names are its own."""
    own = module.state_dict()
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{path}: expected names and their tensors, got {type(state)}")
    for key, tensor in state.items():
        if key not in own or getattr(tensor, "shape", None) != own[key].shape:
            continue
        if tensor.dtype != own[key].dtype or tensor.layout != torch.strided or tensor.is_meta:
            fault = f"is {tensor.dtype}, expected plain {own[key].dtype}"
        elif not torch.isfinite(tensor).all():
            fault = f"holds {(~torch.isfinite(tensor)).sum()} NaN or infinite value(s)"
        elif key.endswith("running_var") and tensor.min() < 0:
            fault = f"is a variance, and negative ({tensor.min():g})"
        else:
            continue
        raise CheckpointError(f"{path}: {key} {fault}: copy the file again, or train anew")


def load_encoder(path: str | Path, expect: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The pretrained encoder of a checkpoint in eval mode, built as its config says, and metadata.

    Raises:
        CheckpointError: unusable file (see `load`), no encoder in it, or another than `expect`.
    """
    state, metadata = load(path)
    _expect(state, "encoder", path, "a pretraining")
    encoder = _build(metadata, path, expect)
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
    _expect(state, "classifier", path, "a fine-tuning")
    encoder, classes = _build(metadata, path, expect), metadata.get("classes")
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not named or not 1 <= len(classes) <= MOST_CLASSES:
        raise CheckpointError(
            f"{path} names no classes: expected a list of 1 to {MOST_CLASSES:,} names under"
            f" 'classes', got {str(classes)[:100]}"
        )
    classifier = Classifier(encoder, len(classes), metadata["config"]["dropout"])
    restore(classifier, state["classifier"], path)
    return classifier.eval(), metadata


def _expect(state: dict[str, Any], part: str, path: str | Path, kind: str) -> None:
    if part not in state:
        held = sorted(map(str, state))
        raise CheckpointError(f"{path} holds no {part} but {held}: expected {kind} checkpoint")


def best_classifier(folder: str | Path, *, tones: bool = False) -> Path:
    """Of the fine-tuned classifiers in a folder the one with the highest validation accuracy.

    Args:
        tones: of those that were trained in tones between level 1C and 2A, for maps; of all where
            there is none.

    Raises:
        CheckpointError: there is none, or one that can't be used.
    """
    files = sorted(Path(folder).glob("final_supervised_model_*.pth"))
    if not files:
        raise CheckpointError(
            f"no classifier in {folder}: run notebook 05 (06 and 07 for the large encoders) first"
        )
    return max(files, key=lambda file: (tones and _knows_tones(file), _val_accuracy(file)))


def _knows_tones(path: Path) -> bool:
    config = load(path)[1].get("config")
    return isinstance(config, dict) and bool(config.get("tones"))


def _val_accuracy(path: Path) -> float:
    metrics = load(path)[1].get("metrics")
    value = metrics.get("val_accuracy") if isinstance(metrics, dict) else None
    try:
        check_number(value, "metrics.val_accuracy", SHARE)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}: move it away, or make it again") from error
    return value


def _build(metadata: dict[str, Any], path: str | Path, expect: str | None) -> nn.Module:
    config = metadata.get("config")
    if not isinstance(config, dict) or not isinstance(name := config.get("encoder"), str):
        raise CheckpointError(f"{path} has no config that names its encoder: make it again")
    if expect is not None and name != expect:
        raise CheckpointError(
            f"{path} holds the encoder {name!r}, expected {expect!r}: pick another file"
        )
    try:
        shape = [check_number(config.get(key), key, allowed) for key, allowed in LIMITS.items()]
        return build_encoder(name, *shape, statistics=config.get("statistics"))
    except ValueError as error:
        raise CheckpointError(f"{path} has a config of no network ({error})") from error
