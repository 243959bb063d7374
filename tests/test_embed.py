"""Features as files: row n of the array is of what row n of the index says."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src import checkpoints
from src.augmentations.evaluation_transform import prepare
from src.data.images import CLASSES, eurosat_store, read_image
from src.embed import embed_to_files, main
from src.encoders import Classifier, build_encoder
from src.errors import DataError
from src.runs.runtime import pick

FLOAT32 = pick("cpu", "float32")


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_encoder("custom_cnn", image_size=16).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, encoder):
    config = {"encoder": "custom_cnn", "in_channels": 3, "image_size": 16, "dropout": 0.1}
    path = tmp_path_factory.mktemp("models") / "best.pth"
    return checkpoints.save(path, {"encoder": checkpoints.clean_state(encoder)}, {"config": config})


def alone(encoder, image):
    with torch.inference_mode():
        return encoder(prepare(np.stack([image]), 16, torch.device("cpu")))[0].numpy()


def test_a_folder_of_any_images_row_by_row(tmp_path, encoder, checkpoint, monkeypatch, capsys):
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    sizes = {"b.png": (16, 16), "a.tif": (40, 30), "deep/c.JPG": (64, 64), "d.png": (16, 16)}
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / "._b.png").write_bytes(b"what macOS keeps beside b.png")
    options = ("--checkpoint", checkpoint, "--batch-size", 3, "--precision", "float32")
    words = ["embed", folder, "--out", tmp_path / "out", *options]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    main()
    assert "(4, 256)" in capsys.readouterr().out
    features = np.load(tmp_path / "out/features.npy")
    index = pd.read_parquet(tmp_path / "out/index.parquet")
    assert list(index["name"]) == ["a.tif", "b.png", "d.png", "deep/c.JPG"]
    assert features.dtype == np.float32
    assert index.attrs == {"checkpoint": "best.pth", "encoder": "custom_cnn"}
    for name, row in zip(index["name"], features, strict=True):
        np.testing.assert_allclose(row, alone(encoder, read_image(folder / name)), atol=1e-5)
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"features.npy", "index.parquet"}


def test_a_store_keeps_its_labels_and_a_classifier_gives_its_encoder(tmp_path, eurosat, encoder):
    store = eurosat_store(eurosat, tmp_path / "store")
    config = {"encoder": "custom_cnn", "in_channels": 3, "image_size": 16, "dropout": 0.1}
    state = {"classifier": checkpoints.clean_state(Classifier(encoder))}
    path = checkpoints.save(tmp_path / "c.pth", state, {"config": config, "classes": list(CLASSES)})
    features, index = embed_to_files(
        tmp_path / "store", path, tmp_path / "out", runtime=FLOAT32, batch_size=7
    )
    table = pd.read_parquet(index)
    assert list(table["name"]) == list(store.names)
    assert list(table["label"]) == [CLASSES[label] for label in store.labels]
    for row, image in zip(np.load(features), store.images, strict=True):
        np.testing.assert_allclose(row, alone(encoder, image), atol=1e-5)


def test_a_geotiff_of_a_scene_is_told_for_what_it_is(tmp_path, checkpoint, write_band):
    (tmp_path / "scenes").mkdir()
    for dtype, count in (("uint16", 4), ("float32", 3), ("uint8", 4)):
        write_band(tmp_path / "scenes/a.tif", np.ones((count, 16, 16), dtype))
        message = rf"a\.tif holds {count} band\(s\) of {dtype}: src\.embed takes 8-bit RGB images"
        with pytest.raises(DataError, match=message):
            embed_to_files(tmp_path / "scenes", checkpoint, tmp_path / "out", runtime=FLOAT32)


def test_what_cannot_be_embedded_is_told_and_leaves_no_half_file(tmp_path, checkpoint):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        embed_to_files(tmp_path / "empty", checkpoint, tmp_path / "out")
    (tmp_path / "empty/broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png cannot be read"):
        embed_to_files(tmp_path / "empty", checkpoint, tmp_path / "out", runtime=FLOAT32)
    Image.new("L", (16, 16)).save(tmp_path / "empty/broken.png")
    with pytest.raises(DataError, match="expected an 8-bit RGB image, got mode L"):
        embed_to_files(tmp_path / "empty", checkpoint, tmp_path / "out", runtime=FLOAT32)
    assert not list((tmp_path / "out").iterdir())
