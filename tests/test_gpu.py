"""A machine with one GPU, for all that `src` can tell: no tensor is on the wrong device, the host
waits at no step, and a step launches few kernels. On a real GPU the same functions run for real.
"""

import numpy as np
import pytest

from benchmarks.launches import fake_cuda
from src.encoders import Classifier, build_encoder
from src.ood import Train, evaluate, mc_dropout, odin, penultimate
from src.probes import embed, knn_probe
from src.runs.runtime import pick

SMALL = np.zeros((24, 32, 32, 3), np.uint8)
LABELS = np.arange(24) % 4


def classifier():
    return Classifier(build_encoder("custom_cnn", image_size=16), 4)


# every public function that is given a model: (model, images, **how) → an array
OF_A_MODEL = {
    "embed": lambda model, images, **how: embed(model.encoder, images, 16, **how),
    "knn_probe": lambda model, images, **how: knn_probe(
        images, LABELS, np.arange(12), np.arange(12, 24), 16, **how
    )(model.encoder),
    "mc_dropout": lambda model, images, **how: mc_dropout(model, images, 3, **how),
    "penultimate": penultimate,
    "odin": odin,
    "Train.of": lambda model, images, **how: Train.of(model, images, LABELS, **how),
    "evaluate": lambda model, images, **how: evaluate(
        model, images, images[:12], images[12:], 3, train_labels=LABELS, **how
    ),
}


@pytest.mark.parametrize("name", OF_A_MODEL)
@pytest.mark.parametrize("lies", ["cpu", "cuda"])
@pytest.mark.parametrize("asked", [None, "cpu", "cuda"])
def test_x(name, lies, asked):
    with fake_cuda() as counted:
        model = classifier().to(lies)
        how = {} if asked is None else {"runtime": pick(asked)}
        OF_A_MODEL[name](model, SMALL, **how)
    print(counted.total, dict(counted.waits))
