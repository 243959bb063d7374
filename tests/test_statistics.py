"""Mean and deviation of any bands: measured over training rows, kept in the store, carried by the
checkpoint, and used by everything after it, whatever set it looks at.
"""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock

import src.data.statistics
import src.data.store
from src import checkpoints
from src.augmentations import IMAGENET_MEAN, IMAGENET_STD, SPECTRAL
from src.augmentations.evaluation_transform import prepare
from src.data.bands import as_rgb
from src.data.splits import stratified_split
from src.data.statistics import main, measure_store
from src.data.store import PatchStore
from src.embed import embed_to_files
from src.encoders import Classifier, build_encoder, statistics_of
from src.encoders.starting import starting_classifier
from src.errors import CheckpointError, DataError
from src.figures import view_pairs
from src.finetune import FinetuneConfig, finetune
from src.ood import evaluate, mc_dropout, odin, penultimate
from src.pretrain import PretrainConfig, pretrain
from src.pretrain import main as pretrain_command
from src.probes import knn_probe
from src.runs import RunSettings
from src.runs.runtime import pick

FLOAT32 = pick("cpu", "float32")
SETTINGS = RunSettings(runtime=FLOAT32)
BANDS = [(1, "uint8"), (4, "uint16"), (13, "uint16")]
HIGH = {"uint8": 256, "uint16": 14_000}  # digital numbers above 10,000 are cut off


def make_store(path, bands=4, dtype="uint8", count=40, classes=2, seed=0, darker=1.0):
    """Images of noise, brighter from band to band, of which those that are no training rows are
    white.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(0, HIGH[dtype], (count, 8, 8, bands))
    images = (images * np.linspace(0.3, 1, bands) * darker).astype(dtype)
    patches = [(f"p{n}", n % classes if classes else None, image) for n, image in enumerate(images)]
    names = [f"class {n}" for n in range(classes)]
    meta = {"kind": "noise", **({"classes": names} if classes else {})}
    return PatchStore.write(path, patches, meta)


def run_command(monkeypatch, command, *words):
    monkeypatch.setattr("sys.argv", ["command", *map(str, words)])
    command()


# --- measuring ---


@pytest.mark.parametrize(("bands", "dtype"), [*BANDS, (3, "uint8")])
def test_what_is_measured_is_mean_and_deviation_of_the_training_rows_alone(
    tmp_path, monkeypatch, bands, dtype
):
    monkeypatch.setattr(src.data.statistics, "BLOCK", 3 * 64 * bands)  # eleven blocks
    store = make_store(tmp_path / "store", bands, dtype)
    assert store.statistics is None
    train = stratified_split(store).train
    kept = measure_store(store.path)
    unit = {"uint8": 255, "uint16": 10_000}[dtype]
    pixels = np.minimum(store.images[train].astype(np.float64) / unit, 1).reshape(-1, bands)
    mean, std = PatchStore.open(store.path).statistics
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-6)
    assert (kept["rows"], kept["count"]) == ("train, seed 0", 32)
    everything = np.minimum(store.images / unit, 1).mean((0, 1, 2))
    assert not np.allclose(mean, everything, rtol=1e-6)  # the other rows would have been seen


def test_without_labels_all_rows_are_measured_and_a_split_may_be_given(tmp_path, monkeypatch):
    plain = make_store(tmp_path / "plain", classes=0)
    assert measure_store(plain.path)["rows"] == "all"
    np.testing.assert_allclose(
        PatchStore.open(plain.path).statistics[0], plain.images.mean((0, 1, 2)) / 255, rtol=1e-6
    )
    store, split = make_store(tmp_path / "store"), tmp_path / "mine.csv"
    parts = ["train"] * 10 + ["val"] * 10 + ["test"] * 20
    rows = [f"{name},{part}" for name, part in zip(store.names, parts, strict=True)]
    split.write_text("\n".join(["name,split", *rows]))
    run_command(monkeypatch, main, store.path, "--split", split)
    kept = PatchStore.open(store.path).meta["statistics"]
    assert (kept["rows"], kept["count"]) == ("train of mine.csv", 10)
    np.testing.assert_allclose(kept["mean"], store.images[:10].mean((0, 1, 2)) / 255, rtol=1e-6)


def test_the_store_is_whole_with_them_and_the_same_when_measured_again(
    tmp_path, monkeypatch, capsys
):
    store = make_store(tmp_path / "store")
    run_command(monkeypatch, main, store.path)
    told = capsys.readouterr().out
    assert told.count("deviation") == 4 and "32 images (train, seed 0)" in told
    first = (store.path / "meta.json").read_bytes()
    sums = (store.path / "SHA256SUMS").read_text()
    assert hashlib.sha256(first).hexdigest() in sums
    again = PatchStore.open(store.path)
    assert {**again.meta} == {**store.meta, "statistics": again.meta["statistics"]}
    assert again.provenance == store.provenance  # runs begun before are of the same data
    measure_store(store.path)
    assert (store.path / "meta.json").read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["store"]  # no lock, no partial file


@pytest.mark.parametrize("written", [0, 1], ids=["before meta.json", "before SHA256SUMS"])
def test_a_kill_while_they_are_kept_leaves_a_store_that_opens(tmp_path, monkeypatch, written):
    store, real = make_store(tmp_path / "store"), src.data.store.write_whole
    calls = iter(range(9))

    def killed(*what):
        if next(calls) == written:
            raise KeyboardInterrupt
        real(*what)

    monkeypatch.setattr(src.data.store, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_store(store.path)
    monkeypatch.undo()
    assert (PatchStore.open(store.path).statistics is not None) == bool(written)
    measure_store(store.path)
    assert (store.path / "SHA256SUMS").is_file() and PatchStore.open(store.path).statistics


def test_a_store_that_is_being_built_is_left_alone_and_what_is_built_stays(tmp_path):
    store = make_store(tmp_path / "store")
    building = tmp_path / "store.building"
    building.mkdir()
    (building / "done.txt").write_text("1\n")
    with FileLock(building / "lock"), pytest.raises(DataError, match="building this store"):
        measure_store(store.path)
    assert PatchStore.open(store.path).statistics is None
    measure_store(store.path)
    assert (building / "done.txt").read_text() == "1\n"


def test_a_band_that_is_the_same_everywhere_is_named(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    images[..., 1] = 7
    PatchStore.write(tmp_path / "store", [(str(n), None, x) for n, x in enumerate(images)], {})
    with pytest.raises(SystemExit, match=r"error: .*band 2 of 3 has the same value"):
        run_command(monkeypatch, main, tmp_path / "store")
    with pytest.raises(SystemExit, match=r"error: .* is not a store"):
        run_command(monkeypatch, main, tmp_path)


@pytest.mark.parametrize("broken", [{"mean": [1.0]}, [1, 2], "mean", {"mean": 1, "std": 2}])
def test_statistics_that_are_none_are_told_when_the_store_is_opened(tmp_path, broken):
    path = make_store(tmp_path / "store").path
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, "statistics": broken}))
    (path / "SHA256SUMS").unlink()
    with pytest.raises(DataError, match="expected mean and std of each band"):
        PatchStore.open(path)


# --- training and everything after it ---


def train_both(folder, store, statistics, **changes):
    """A pretraining on a store with its statistics, and a fine-tuning of it that names none."""
    bands = store.images.shape[-1]
    shape = {"image_size": 8, "in_channels": bands, "batch_size": 8, **changes}
    augmentation = {} if bands == 3 else SPECTRAL
    config = PretrainConfig(
        epochs=1, **shape, augmentation=augmentation, statistics=statistics, projection=(16, 8)
    )
    split = stratified_split(store)
    probe = knn_probe(store.images, store.labels, split.train, split.val, 8, FLOAT32)
    pretrained = pretrain(store.images, config, folder, settings=SETTINGS, probe=probe)
    tuning = FinetuneConfig(phases=(0, 0, 1), **shape)
    data = store.images, store.labels, split, store.meta["classes"]
    start = pretrained.checkpoint
    return pretrained, finetune(*data, tuning, folder, pretrained=start, settings=SETTINGS)


@pytest.mark.parametrize(("bands", "dtype"), BANDS)
def test_any_bands_are_pretrained_tuned_dropped_out_embedded_and_evaluated(tmp_path, bands, dtype):
    store = make_store(tmp_path / "store", bands, dtype)
    other = make_store(tmp_path / "other", bands, dtype, seed=1, darker=0.4)
    measure_store(store.path)
    measure_store(other.path)  # which nothing may ask for
    store, other = PatchStore.open(store.path), PatchStore.open(other.path)
    assert store.statistics != other.statistics
    pretrained, tuned = train_both(tmp_path / "models", store, store.statistics)
    assert pretrained.history["knn"].notna().all()
    model, _ = checkpoints.load_classifier(tuned.checkpoint)
    assert statistics_of(model) == store.statistics  # by way of two checkpoints
    kept = json.loads(tuned.checkpoint.with_suffix(".json").read_text())["config"]["statistics"]
    assert kept == [list(values) for values in store.statistics]
    logits = model(prepare(other.images, 8, "cpu", store.statistics)).detach()
    model.head[2].p = model.head[5].p = 0.0
    for stage in model.encoder.stages:
        stage[-1].p = 1e-9
    found = mc_dropout(model, other.images, 1, runtime=FLOAT32)[0]
    np.testing.assert_allclose(found, logits.log_softmax(1), atol=1e-4)
    out = embed_to_files(other.path, pretrained.checkpoint, tmp_path / "out", runtime=FLOAT32)
    encoder = pretrained.encoder
    expected = encoder(prepare(other.images, 8, "cpu", store.statistics)).detach()
    np.testing.assert_allclose(np.load(out[0]), expected, atol=1e-5)
    result = evaluate(model, store.images[:9], store.images[9:], other.images, 2, FLOAT32)
    assert np.isfinite(result.table.loc["energy", "value"]).all()


@pytest.mark.parametrize("score", [penultimate, odin, mc_dropout], ids=lambda f: f.__name__)
def test_every_way_to_ask_a_network_normalises_by_its_own_statistics(score):
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 4), dtype=np.uint8)
    own = ((0.1, 0.2, 0.3, 0.4), (0.3, 0.2, 0.1, 0.2))
    model = Classifier(build_encoder("custom_cnn", 4, 8, statistics=own), 3).eval()
    found = score(model, images, runtime=FLOAT32)
    model.encoder.statistics = (own[0], (0.3, 0.2, 0.1, 0.9))
    assert not np.allclose(found, score(model, images, runtime=FLOAT32), rtol=1e-9)
    model.encoder.statistics = None
    with pytest.raises(ValueError, match=r"4-channel images.*src\.data\.statistics STORE"):
        score(model, images, runtime=FLOAT32)


def test_rgb_without_statistics_is_imagenets_to_the_bit(tmp_path):
    store, imagenet = make_store(tmp_path / "store", 3), (IMAGENET_MEAN, IMAGENET_STD)
    runs = [train_both(tmp_path / str(own), store, own) for own in (None, imagenet)]
    for first, second in zip(*runs, strict=True):
        kind = "encoder" if first is runs[0][0] else "classifier"
        states = [checkpoints.load(run.checkpoint)[0][kind] for run in (first, second)]
        assert all(map(torch.equal, *(state.values() for state in states)))
    about = checkpoints.load(runs[0][1].checkpoint)[1]
    assert about["config"]["statistics"] is None


def test_a_config_goes_before_its_checkpoint_and_that_before_the_usual_ones(tmp_path):
    own, others = ((0.1,) * 3, (0.2,) * 3), ((0.3,) * 3, (0.4,) * 3)
    config = {"encoder": "custom_cnn", "in_channels": 3, "image_size": 8, "dropout": 0.1}
    encoder = build_encoder("custom_cnn", image_size=8)
    state = {"encoder": encoder.state_dict()}
    recipe, known = FinetuneConfig(image_size=8), {"config": {**config, "statistics": own}}
    file = checkpoints.save(tmp_path / "a.pth", state, known)
    old = checkpoints.save(tmp_path / "old.pth", state, {"config": config})
    model = {"classifier": Classifier(encoder, 2).state_dict()}
    whole = checkpoints.save(tmp_path / "whole.pth", model, {**known, "classes": ["a", "b"]})
    asked = replace(recipe, statistics=others)
    for start, expected in [(file, own), (whole, own), (old, None), (None, None)]:
        for how, found in [(recipe, expected), (asked, others)]:
            assert statistics_of(starting_classifier(how, ["a", "b"], start, FLOAT32)) == found


@pytest.mark.parametrize(
    "wrong", ["abc", [[0.1] * 3], [[0.1] * 4, [0.2] * 4], [[0.1] * 3, [0] * 3]]
)
def test_wrong_statistics_are_refused_in_a_config_and_in_a_checkpoint(tmp_path, wrong):
    config = {"encoder": "custom_cnn", "in_channels": 3, "image_size": 8, "dropout": 0.1}
    state = {"encoder": build_encoder("custom_cnn", image_size=8).state_dict()}
    file = checkpoints.save(tmp_path / "a.pth", state, {"config": {**config, "statistics": wrong}})
    with pytest.raises(CheckpointError, match=r"statistics|mean"):
        checkpoints.load_encoder(file)
    store = make_store(tmp_path / "store", 3)
    data = store.images, store.labels, stratified_split(store), store.meta["classes"]
    with pytest.raises(ValueError, match=r"statistics|mean"):
        finetune(*data, FinetuneConfig(image_size=8, batch_size=8, statistics=wrong), tmp_path)
    with pytest.raises(ValueError, match=r"statistics|mean"):
        pretrain(store.images, PretrainConfig(batch_size=8, statistics=wrong), tmp_path)


def test_the_mean_is_not_given_in_two_places():
    own = ((0.1,) * 3, (0.2,) * 3)
    with pytest.raises(ValueError, match="in augmentation and in statistics"):
        PretrainConfig(statistics=own, augmentation={"mean": own[0]}).augment()
    assert PretrainConfig(statistics=own).augment().std == own[1]


def test_the_command_trains_on_four_bands_once_they_are_measured(tmp_path, monkeypatch, capsys):
    store = make_store(tmp_path / "store", 4, classes=0)
    options = "--device cpu --epochs 1 --batch-size 8 --image-size 8"
    words = [store.path, "--out", tmp_path, "--runs", tmp_path / "runs", *options.split()]
    with pytest.raises(SystemExit, match=r"error: 4-channel .* `python -m src\.data\.statistics"):
        run_command(monkeypatch, pretrain_command, *words)
    run_command(monkeypatch, main, store.path)
    run_command(monkeypatch, pretrain_command, *words)
    assert "best epoch: " in capsys.readouterr().out
    encoder, _ = checkpoints.load_encoder(tmp_path / "best_contrastive_model_1Ep.pth")
    assert encoder.statistics == PatchStore.open(store.path).statistics


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, (0, 0, 0)), (2, (0, 1, 1)), (4, (0, 1, 2)), (12, (3, 2, 1)), (13, (3, 2, 1))],
)
def test_any_bands_can_be_looked_at(count, shown):
    images = np.random.default_rng(0).integers(0, 2750, (2, 4, 4, count)).astype(np.uint16)
    expected = (images[..., shown] / 2750 * 255).astype(np.uint8)
    np.testing.assert_array_equal(as_rgb(images), expected)
    np.testing.assert_array_equal(as_rgb(expected), expected)


def test_views_of_any_bands_are_shown_as_they_were_before_normalisation():
    images = np.full((2, 8, 8, 4), 51, np.uint8)
    own = ((0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8))
    views = {"gray_p": 0.0, "jitter_p": 0.0}
    config = PretrainConfig(image_size=8, in_channels=4, augmentation=views, statistics=own)
    shown = [axis.get_images()[0].get_array() for axis in view_pairs(images, config.augment()).axes]
    for picture in shown:
        np.testing.assert_allclose(picture / (255 if picture.max() > 1 else 1), 0.2, atol=1e-6)
