"""Weights that other code has trained, for our encoders: all that is needed fits, or an error.

Files of torchgeo, SSL4EO-S12, timm and many others name the weights of ResNet-50 and ViT-B/16 as
timm does, behind some prefix and inside some dict. Which, is found by looking for our own names.
"""

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from src import checkpoints
from src.encoders.reading import read
from src.errors import CheckpointError

State = dict[str, Tensor]
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar")
# where published files have their weights, the best first: of DINO's two networks it is the teacher
NESTED = ("state_dict", "model", "teacher", "student", "encoder")
DEPTH = 3  # of dicts within dicts
POSITIONS = "pos_embed"
# counters of batch norm, which old files lack and nothing here reads
COUNTER = "num_batches_tracked"
# parts that change the features where they are there: without them it would be another network
OTHER_NETWORK = ("norm_pre", "fc_norm", "reg_token", "dist_token")
SHOWN = 4  # faults in a message


def is_foreign(pretrained: str | Path) -> bool:
    """Whether this is a file of other code, or a name of timm's, and no checkpoint of ours.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    path = Path(pretrained)
    if not path.is_file():
        return is_timm_name(pretrained)
    return _is_foreign_file(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _is_foreign_file(path: Path, _: int) -> bool:
    """A large file is not read anew for every time that it is asked about."""
    return not checkpoints.is_own(read(path))


def is_timm_name(name: str | Path) -> bool:
    """Whether timm has weights of that name; "timm/" in front is understood."""
    if Path(name).suffix in SUFFIXES:
        return False
    import timm  # takes as long as all the rest

    return timm.is_model_pretrained(_timm_name(name))


def _timm_name(name: str | Path) -> str:
    return str(name).removeprefix("timm/")


def short_name(pretrained: str | Path) -> str:
    """A short name of what is started from: a file's without its suffix, or timm's."""
    path = Path(pretrained)
    return path.stem if path.suffix in SUFFIXES or path.is_file() else path.name


def file_record(pretrained: str | Path | None) -> dict[str, str]:
    """Which foreign file it was, for the record; of all else nothing."""
    if pretrained is None or not Path(pretrained).is_file() or not is_foreign(pretrained):
        return {}
    with open(pretrained, "rb") as file:
        return {"pretrained_sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def foreign_state(pretrained: str | Path, encoder: nn.Module) -> State:
    """The state dict of an encoder out of a foreign file, or from timm's hub.

    A ViT's positions of another image size are resampled, as timm does it. What there is beside
    the encoder (heads, decoders, a second network) is left out, and named in one line.

    Raises:
        CheckpointError: unreadable, or of another network: what is missing, too much or of another
            shape is named, and nothing is taken.
        ConnectionError: timm's weights could not be fetched.
    """
    if Path(pretrained).is_file():
        return _fitting(_state_dicts(read(Path(pretrained))), encoder, pretrained)
    from src.encoders.timm_based import timm_state

    bands = next(p.shape[1] for p in encoder.parameters() if p.dim() == 4)
    what = (_timm_name(pretrained), bands, encoder.image_size)
    with torch.device("meta"):  # another network is told before anything is fetched
        _fitting([timm_state(*what, fetch=False)], encoder, pretrained)
    return _fitting([timm_state(*what)], encoder, pretrained)


def _state_dicts(content: Any, depth: int = DEPTH) -> Iterator[State]:
    """All dicts of tensors in a file, the likeliest first."""
    if not isinstance(content, dict) or not depth:
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if state := {key: value for key, value in named.items() if isinstance(value, Tensor)}:
        yield state
    for key in sorted(named, key=lambda key: NESTED.index(key) if key in NESTED else len(NESTED)):
        yield from _state_dicts(named[key], depth - 1)


def _fitting(states: Iterable[State], encoder: nn.Module, source: str | Path) -> State:
    """The encoder's weights, of the dict and behind the prefix that have most of its names."""
    own = encoder.state_dict()
    found = [(state, *_prefix(state, own)) for state in states]
    if not found:
        raise CheckpointError(f"{source} holds no state dict: expected names and their tensors")
    state, prefix, _ = max(found, key=lambda candidate: candidate[-1])  # of equal ones the first
    behind = {key.removeprefix(prefix): key for key in state if key.startswith(prefix)}
    taken = {key: state[behind[key]] for key in own if key in behind}
    if POSITIONS in taken:
        taken[POSITIONS] = _resampled(taken[POSITIONS], own[POSITIONS], source)
    if faults := [*_faults(taken, behind, own)]:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise CheckpointError(
            f"{source} does not fit {type(encoder).__name__}: {'; '.join(faults[:SHOWN])}{more}."
            " Nothing is loaded: give weights of the same network, bands and patches"
        )
    beside = state.keys() - {behind[key] for key in taken}
    if names := dict.fromkeys(_group(key, prefix) for key in state if key in beside):
        tqdm.write(f"{source}: the encoder is taken; left out are {', '.join(names)}")
    counters = {key: value for key, value in own.items() if key.endswith(COUNTER)}
    return counters | {key: _as(own[key].dtype, value) for key, value in taken.items()}


def _prefix(state: State, own: State) -> tuple[str, int]:
    """What stands before most of the encoder's names, and before how many."""
    found = Counter({"": 0})
    for key in state:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in own:
                found["".join(f"{part}." for part in parts[:start])] += 1
    return found.most_common(1)[0]


def _faults(taken: State, behind: dict[str, str], own: State) -> Iterator[str]:
    for key, value in taken.items():
        if value.shape != own[key].shape:
            yield f"{key} is {tuple(value.shape)}, expected {tuple(own[key].shape)}"
    for key in own:
        if key not in taken and not key.endswith(COUNTER):
            yield f"{key} is missing"
    parts = {*OTHER_NETWORK, *(key.split(".")[0] for key in own)}
    for key in behind:
        if key not in own and key.split(".")[0] in parts:
            yield f"{key} is more than it has"


def _group(key: str, prefix: str) -> str:
    """A name, cut off where it leaves the prefix: "module.encoder_q.fc", "module.queue"."""
    parts, before = key.split("."), prefix.split(".")[:-1]
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(parts, before, strict=False))
    return ".".join(parts[: 1 + len([*same])])


def _as(dtype: torch.dtype, value: Tensor) -> Tensor:
    """Half precision as what it was rounded from; anything else is refused by `restore`."""
    return value.to(dtype) if value.is_floating_point() and dtype.is_floating_point else value


def _resampled(positions: Tensor, own: Tensor, source: str | Path) -> Tensor:
    """A ViT's positions, (1, 1 + patches, D), for another number of patches; others as they are."""
    if positions.dim() != own.dim():
        return positions
    side, own_side = ((p.shape[1] - 1) ** 0.5 for p in (positions, own))
    if side == own_side or side % 1:
        return positions
    from timm.layers import resample_abs_pos_embed

    sizes = f"{side:g} × {side:g} patches resampled to {own_side:g} × {own_side:g}"
    tqdm.write(f"{source}: positions of {sizes}")
    return resample_abs_pos_embed(positions, [int(own_side), int(own_side)])
