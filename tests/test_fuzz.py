"""Bytes flipped at random: what is read is equal, or refused with an error that says what to do.

Seeded, so that what fails, fails again.
"""

import json
import random
import warnings

import numpy as np
import pytest
import torch

from src import checkpoints
from src.data.store import PatchStore
from src.encoders import Classifier, build_encoder
from src.errors import CheckpointError, DataError

FLIPS = 150
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
META = {"kind": "noise", "classes": ["a", "b"], "counts": {"written": 6}}


def checkpoint(folder):
    torch.manual_seed(0)
    model = Classifier(build_encoder("custom_cnn", image_size=8), 2)
    config = {"encoder": "custom_cnn", "in_channels": 3, "image_size": 8, "dropout": 0.1}
    metadata = {"config": config, "classes": ["a", "b"]}
    state = {"classifier": checkpoints.clean_state(model)}
    return checkpoints.save(folder / "a.pth", state, metadata)


def read_checkpoint(path):
    model, metadata = checkpoints.load_classifier(path)
    weights = sum(float(tensor.double().sum()) for tensor in model.state_dict().values())
    return weights, json.dumps(metadata)


def store(folder):
    patches = ((f"patch {n}", n % 2, image) for n, image in enumerate(IMAGES))
    return PatchStore.write(folder / "store", patches, META).path


def read_meta(path):
    """The store's shape and classes; a word that means nothing to it may be another."""
    opened = PatchStore.open(path.parent)
    return opened.images.shape, opened.meta["shape"]


def flipped(content, rng):
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 20))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(content, rng):
    return content[: rng.randrange(len(content))]


CASES = {
    "checkpoint": (checkpoint, read_checkpoint, FLIPS),
    "meta.json": (lambda folder: store(folder) / "meta.json", read_meta, FLIPS),
}


@pytest.mark.parametrize("damage", [flipped, cut])
@pytest.mark.parametrize(("make", "read", "times"), CASES.values(), ids=CASES)
def test_a_damaged_file_is_read_as_it_was_or_refused(tmp_path, make, read, times, damage):
    file, rng, refused = make(tmp_path), random.Random(1), 0
    content, expected = file.read_bytes(), read(file)
    for _ in range(times):
        file.write_bytes(damage(content, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert read(file) == expected
        except (CheckpointError, DataError) as error:
            assert str(file.parent) in str(error)
            refused += 1
    assert refused > times / 10
