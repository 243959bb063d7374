"""Twelve bands end to end: GeoTIFFs → uint16 stores → spectral views → pretraining → pictures."""

import numpy as np
import pytest

from src import figures
from src.augmentations import SPECTRAL, SimCLRAugmentation
from src.data.bands import ALL_BANDS, RGB
from src.data.demo import make_demo
from src.data.images import ALLBANDS, CLASSES, eurosat_allbands_store, eurosat_store
from src.data.known import open_data
from src.pretrain import PretrainConfig, main, pretrain
from src.probes import embed, knn_probe
from src.profiles import open_profile
from src.runs import RunSettings
from src.runs.runtime import pick


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    counts = {"bigearthnet": 24, "eurosat_per_class": 10, "ucmerced_per_class": 1}
    make_demo(folder / "data/demo", **counts, progress=False)
    return folder


@pytest.fixture
def profile(workspace, monkeypatch):
    monkeypatch.setattr("src.profiles.make_demo", lambda root: root)
    return open_profile("demo", workspace)


def test_pretraining_with_twelve_channels_learns_and_can_be_looked_at(profile, tmp_path):
    store = profile.unlabelled("bigearthnet", bands="all")
    images, provenance = store.images, store.provenance
    assert images.shape == (24, 120, 120, 12) and images.dtype == np.uint16
    assert provenance["kind"] == "bigearthnet-v1-all"
    store, split = profile.labelled(bands="all")
    assert store.images.shape == (100, 64, 64, 12)
    assert store.meta["bands"] == provenance["bands"] == list(ALL_BANDS)
    config = PretrainConfig(
        epochs=2, batch_size=12, image_size=16, in_channels=12, augmentation=SPECTRAL
    )
    runtime = pick("cpu", "float32")
    probe = knn_probe(store.images, store.labels, split.train, split.val, 16, runtime)
    settings = RunSettings(runtime=runtime, provenance=provenance)
    result = pretrain(images, config, tmp_path, settings=settings, probe=probe, probe_every=1)
    assert result.history["loss"].iloc[-1] < result.history["loss"].iloc[1]
    assert result.history["knn"].between(0, 1).all()
    assert embed(result.encoder, store.images[split.val], 16, runtime).shape == (10, 256)
    augment = SimCLRAugmentation(16, **config.augmentation)
    assert len(figures.view_pairs(images[:3], augment).axes) == 9
    figures.samples(images[:3], [""] * 3)


def test_the_command_pretrains_on_a_twelve_band_store(profile, tmp_path, monkeypatch, capsys):
    store = open_data("bigearthnet", profile.data, bands="all").path
    options = "--device cpu --epochs 1 --batch-size 8 --image-size 16"
    folders = ["--out", str(tmp_path), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", ["src.pretrain", str(store), *folders, *options.split()])
    main()
    assert "best epoch: " in capsys.readouterr().out


def test_made_eurosat_shows_the_same_scenes_in_both_forms(workspace, tmp_path):
    import rasterio

    root = workspace / "data/demo/eurosat"
    rgb = eurosat_store(root / "2750", tmp_path / "rgb")
    every = eurosat_allbands_store(root / ALLBANDS, tmp_path / "all")
    assert rgb.names.tolist() == every.names.tolist()
    assert rgb.labels.tolist() == every.labels.tolist()
    shown = every.images[..., [ALL_BANDS.index(band) for band in RGB]] / 2750 * 255
    assert np.abs(shown.clip(0, 255) - rgb.images).mean() < 5  # JPEG loses a little
    with rasterio.open(root / ALLBANDS / f"{CLASSES[0]}/{CLASSES[0]}_1.tif") as file:
        assert file.count == 13 and (file.read(10) < 50).all()  # B10 sees no ground
