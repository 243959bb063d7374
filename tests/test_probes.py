"""The evaluation transform against torchvision, kNN against a loop, and embed's promises."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from src.augmentations.evaluation_transform import prepare
from src.encoders import build_encoder
from src.probes import embed, evenly_spread, knn_accuracy, knn_probe, linear_accuracy
from src.runs.runtime import pick

CPU = torch.device("cpu")
FLOAT32 = pick("cpu", "float32")


def landscape(n, height, width, channels=3, seed=0):
    """Smooth fields with edges and sensor noise: what resizing meets in real patches."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    patches = []
    for _ in range(n):
        a, b, c, d = rng.uniform(1, 9, 4)
        field = 0.5 + 0.3 * np.sin(a * x + b * y) * np.cos(c * y) + 0.2 * (x * d % 1 > 0.5)
        colour, noise = (
            rng.uniform(0.3, 1, channels),
            rng.normal(0, 0.03, (height, width, channels)),
        )
        patches.append(field[..., None] * colour + noise)
    return (255 * np.clip(patches, 0, 1)).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(64, 64, 64), (256, 256, 64), (120, 90, 64), (32, 48, 64)]
)
def test_prepare_equals_torchvision_resize_and_normalize(height, width, size):
    images = landscape(3, height, width)
    reference = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize((size, size), antialias=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    expected = torch.stack([reference(image) for image in images])
    batch = prepare(images, size, CPU)
    torch.testing.assert_close(batch, expected, rtol=0, atol=2e-5)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_prepare_takes_tensors_as_well_as_arrays():
    images = landscape(2, 40, 40)
    assert torch.equal(prepare(torch.from_numpy(images), 32, CPU), prepare(images, 32, CPU))


def test_prepare_does_not_round_under_autocast():
    images = landscape(2, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        prepared = prepare(images, 32, CPU)
    assert torch.equal(prepared, prepare(images, 32, CPU))


def test_prepare_refuses_reflectances():
    with pytest.raises(ValueError, match="stretch reflectances to uint8"):
        prepare(np.zeros((1, 8, 8, 3), np.int32), 8, CPU)


def test_embed_puts_the_prepared_images_through_the_module():
    images, encoder = landscape(5, 40, 40), build_encoder("custom_cnn", image_size=32)
    features = embed(encoder, images, 32, FLOAT32)
    with torch.no_grad():
        expected = encoder.eval()(prepare(images, 32, CPU)).numpy()
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_embed_does_not_depend_on_the_batch_size(batch_size):
    torch.manual_seed(0)
    # batch norm in training mode, or dropout left on, would make this fail
    images = landscape(7, 16, 16)
    encoder = build_encoder("custom_cnn", image_size=16, dropout=0.5).train()
    together = embed(encoder, images, 16, FLOAT32)
    in_batches = embed(encoder, images, 16, FLOAT32, batch_size)
    np.testing.assert_allclose(in_batches, together, rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_embed_leaves_mode_and_buffers_as_they_were(training):
    encoder = build_encoder("custom_cnn", image_size=32).train(training)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    embed(encoder, landscape(3, 32, 32), 32, FLOAT32)
    assert {module.training for module in encoder.modules()} == {training}
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())


def test_embed_gives_every_stage_its_own_mode_back():
    # half-way through unfreezing some stages learn and others are frozen in eval mode
    encoder = build_encoder("custom_cnn", image_size=16).train()
    encoder.stages[0].eval()
    before = [module.training for module in encoder.modules()]
    embed(encoder, landscape(2, 16, 16), 16, FLOAT32)
    assert [module.training for module in encoder.modules()] == before
    with pytest.raises(ValueError, match="4-channel images"):
        embed(encoder, landscape(2, 16, 16, channels=4), 16, FLOAT32)
    assert [module.training for module in encoder.modules()] == before


def test_embed_in_bfloat16_is_near_and_still_float32():
    torch.manual_seed(0)
    images, encoder = landscape(4, 32, 32), build_encoder("custom_cnn", image_size=32)
    rounded, exact = (embed(encoder, images, 32, pick("cpu", p)) for p in ("bfloat16", "float32"))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.03 * np.abs(exact).max()


def blobs(per_class=30, classes=3, distance=4.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = distance * np.random.default_rng(99).normal(size=(classes, 8))
    labels = np.repeat(np.arange(classes), per_class)
    return centres[labels] + rng.normal(size=(len(labels), 8)), labels


@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_accuracy_equals_a_loop_over_cosines(k):
    (train, labels), (test, test_labels) = blobs(distance=0.5), blobs(distance=0.5, seed=1)
    right = 0
    for row, label in zip(test, test_labels, strict=True):
        cosine = [row @ other / np.linalg.norm(row) / np.linalg.norm(other) for other in train]
        nearest = labels[np.argsort(cosine)[::-1][:k]]
        # among equal votes the smaller label, as scikit-learn
        right += np.bincount(nearest).argmax() == label
    expected = right / len(test)
    assert 0.4 < expected < 0.95  # neither chance nor certain, so that a wrong neighbour would show
    assert knn_accuracy(train, labels, test, test_labels, k) == pytest.approx(expected, abs=1e-12)


def test_knn_compares_directions_not_lengths():
    train = np.array([[10.0, 0.0], [0.0, 0.1]])
    # nearer to the second by distance, in the direction of the first
    assert knn_accuracy(train, np.array([0, 1]), np.array([[0.2, 0.01]]), np.array([0]), k=1) == 1.0


def test_knn_with_fewer_references_than_k():
    assert knn_accuracy(np.eye(3), np.array([1, 1, 0]), np.eye(3), np.array([1, 1, 1]), k=20) == 1.0


def test_linear_accuracy_on_separable_and_on_meaningless_features():
    (train, labels), (test, test_labels) = blobs(), blobs(seed=1)
    assert linear_accuracy(train, labels, test, test_labels) > 0.95
    noise = np.random.default_rng(2).normal(size=train.shape)
    assert linear_accuracy(noise, labels, test, test_labels) < 0.8


def test_linear_accuracy_standardises_the_features():
    # one feature in the millions would otherwise drown the one that tells the classes apart
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    telling = 1e-6 * (labels + rng.normal(0, 0.1, 200))
    features = np.stack([telling, 1e6 * rng.normal(size=200)], axis=1)
    assert linear_accuracy(features[:100], labels[:100], features[100:], labels[100:]) > 0.95


class MeanColour(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


def test_knn_probe_reads_only_its_rows():
    labels = np.arange(60) % 2
    images = np.zeros((60, 8, 8, 3), np.uint8)
    images[labels == 0, ..., 0] = 255
    images[labels == 1, ..., 2] = 255
    wrong = labels.copy()
    wrong[50:] = 1 - wrong[50:]  # rows that the probe was not given
    probe = knn_probe(images, wrong, np.arange(30), np.arange(30, 50), 8, FLOAT32)
    assert probe(MeanColour()) == 1.0
    other = knn_probe(images, wrong, np.arange(30), np.arange(50, 60), 8, FLOAT32)
    assert other(MeanColour()) == 0.0


@pytest.mark.parametrize(
    ("n", "limit", "expected"), [(10, 20, 10), (10, 10, 10), (1000, 50, 50), (7, 1, 1)]
)
def test_spread_takes_distinct_rows_from_end_to_end(n, limit, expected):
    rows = evenly_spread(np.arange(100, 100 + n), limit)
    assert len(set(rows.tolist())) == len(rows) == expected
    assert rows[0] == 100
    assert expected == 1 or rows[-1] == 99 + n
