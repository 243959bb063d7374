"""A scene in, a map and where not to believe it out: on made scenes, with a small untrained
network.
"""

import json
import shutil
import time
import warnings
from pathlib import Path

import killable
import matplotlib.pyplot as plt
import numpy as np
import pytest
import rasterio
import torch
from rasterio import Affine
from rasterio.windows import Window
from scipy.special import softmax

from src import checkpoints
from src.data.bands import to_uint8
from src.data.splits import stratified_split
from src.data.store import PatchStore
from src.encoders import Classifier, build_encoder
from src.errors import DataError
from src.map import tiles
from src.map.__main__ import main
from src.map.figures import map_panels, scene_both_ways
from src.map.scene import open_scene
from src.map.scene_checks import differences
from src.map.scene_map import map_scene
from src.map.thresholds import SCORES, Thresholds, fit_thresholds, thresholds_path
from src.map.tiles import NO_CLASS, RASTERS, blend, cell_edges, tile_starts
from src.ood import penultimate
from src.runs.fingerprints import fingerprint
from src.runs.runtime import pick

TILE, CLASSES, FLOAT32 = 16, ["Sea", "Forest", "Town"], pick("cpu", "float32")


def covers(rng, size, n):
    """n scenes of each class as digital numbers (n, size, size, 3): another mean and another
    roughness each.
    """
    return [
        rng.normal(mean, spread, (n, size, size, 3)).clip(1).astype(np.uint16)
        for mean, spread in ((500, 30), (900, 150), (1500, 500))
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a checkpoint, the store it could have been trained with, and its calibration by
    every score.
    """
    folder, rng = tmp_path_factory.mktemp("map"), np.random.default_rng(0)
    images = (
        (f"{n}_{i}", n, to_uint8(x, 2750))
        for n, xs in enumerate(covers(rng, TILE, 70))
        for i, x in enumerate(xs)
    )
    store = PatchStore.write(folder / "store", images, {"kind": "eurosat-rgb", "classes": CLASSES})
    torch.manual_seed(0)
    model = Classifier(build_encoder("custom_cnn", image_size=TILE), len(CLASSES))
    config = {
        "encoder": "custom_cnn",
        "in_channels": 3,
        "image_size": TILE,
        "dropout": 0.1,
        "seed": 0,
    }
    about = {
        "config": config,
        "classes": CLASSES,
        "data": store.about,
        "metrics": {"val_accuracy": 0.3},
    }
    checkpoint = checkpoints.save(
        folder / "c.pth", {"classifier": checkpoints.clean_state(model)}, about
    )
    model, about = checkpoints.load_classifier(checkpoint)
    found = fit_thresholds(
        model, about, checkpoint, store, stratified_split(store), SCORES, runtime=FLOAT32
    )
    found.save(thresholds_path(checkpoint))
    return folder


@pytest.fixture(scope="module")
def known(files):
    return Thresholds.load(thresholds_path(files / "c.pth"), files / "c.pth")


def numbers(height, width, seed=1):
    """(3, height, width) digital numbers: the three classes in squares of 40 pixels."""
    square = (np.arange(height)[:, None] // 40 + np.arange(width) // 40) % 3
    layers = [
        cover[0][:height, :width]
        for cover in covers(np.random.default_rng(seed), max(height, width), 1)
    ]
    return np.choose(square[..., None], layers).transpose(2, 0, 1)


@pytest.fixture
def scene(tmp_path, write_band):
    def write(values, name="scene.tif", **profile):
        write_band(tmp_path / name, values, **profile)
        return tmp_path / name

    return write


def run(path, files, known, out, **options):
    options = {"stride": TILE, "runtime": FLOAT32, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return map_scene(path, files / "c.pth", out, known, **options)


def read(out, name):
    with rasterio.open(out / f"{name}.tif") as file:
        return file.read(1)


# What comes out


def test_rasters_are_cogs_on_the_very_pixels_of_the_scene(tmp_path, scene, files, known):
    path = scene(numbers(600, 531), transform=Affine(10, 0, 600003.25, 0, -10, 5000007.5))
    summary = run(path, files, known, tmp_path / "out")
    with rasterio.open(path) as given:
        for name, (dtype, _) in RASTERS.items():
            with rasterio.open(tmp_path / "out" / f"{name}.tif") as made:
                assert (made.crs, made.transform, made.shape, made.bounds) == (
                    given.crs,
                    given.transform,
                    given.shape,
                    given.bounds,
                )
                assert made.dtypes == (dtype,) and made.count == 1
                assert made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert made.block_shapes == [(512, 512)] and made.overviews(1) == [2]
                assert made.nodata == NO_CLASS if dtype == "uint8" else np.isnan(made.nodata)
    with rasterio.open(tmp_path / "out/class.tif") as made:
        assert [made.tags()[f"CLASS_{n}"] for n in range(3)] == CLASSES
        assert made.colormap(1)[1][:3] == (255, 127, 14)  # C1, as in every figure
    assert summary == json.loads((tmp_path / "out/map.json").read_text())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*(f"{n}.tif" for n in RASTERS), "map.json"]
    )


def test_every_pixel_is_the_mean_of_what_the_network_says_of_the_tiles_over_it(
    tmp_path, scene, files, known
):
    values, stride = numbers(53, 70), 12
    summary = run(scene(values), files, known, tmp_path / "out", stride=stride)
    model, _ = checkpoints.load_classifier(files / "c.pth")
    total, count = np.zeros((53, 70, 4)), np.zeros((53, 70, 1))
    for top in (0, 12, 24, 36, 37):  # the last ends with the scene
        for left in (0, 12, 24, 36, 48, 54):
            where = slice(top, top + TILE), slice(left, left + TILE)
            image = to_uint8(values[:, *where].transpose(1, 2, 0), 2750)[None]
            logits = known.train(model).logits(penultimate(model, image, FLOAT32))
            total[where] += [*softmax(logits[0]), -np.log(np.exp(logits[0]).sum())]
            count[where] += 1
    mean = total / count
    np.testing.assert_allclose(
        read(tmp_path / "out", "confidence"), mean[..., :3].max(-1), atol=1e-5
    )
    np.testing.assert_allclose(read(tmp_path / "out", "score"), mean[..., 3], atol=1e-5)
    assert (read(tmp_path / "out", "class") == mean[..., :3].argmax(-1)).all()
    flagged = mean[..., 3] > known.about["thresholds"]["energy"]
    assert (read(tmp_path / "out", "flagged") == flagged).all()
    assert summary["flagged"] == pytest.approx(flagged.mean()) and summary["mapped"] == 1
    shares = [(mean[..., :3].argmax(-1) == n).mean() for n in range(3)]
    assert list(summary["classes"].values()) == pytest.approx(shares)


def test_blend_leaves_out_missing_tiles_and_counts_the_rest():
    values = np.array([[[1.0], [np.nan], [3.0]]], np.float32)
    means, count = blend(values, np.array([0]), np.array([0, 2, 4]), 4)
    assert list(cell_edges(np.array([0, 2, 4]), 4)) == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(means[0, :, 0], [1, 1, 3, 3])
    np.testing.assert_array_equal(count[0], [1, 1, 1, 1])
    assert np.isnan(blend(values[:, 1:2], np.array([0]), np.array([0]), 4)[0]).all()


@pytest.mark.parametrize("length", [16, 17, 31, 32, 100])
def test_tiles_reach_both_ends_and_never_beyond(length):
    starts = tile_starts(length, 16, 16)
    assert starts[0] == 0 and starts[-1] + 16 == length and (np.diff(starts) <= 16).all()


@pytest.mark.parametrize("declared", [True, False])
def test_only_whole_tiles_count_and_nothing_is_filled_in(tmp_path, scene, files, known, declared):
    values = numbers(64, 64)
    values[:, 20, 50], values[0, 5, 5] = 0, 0  # one missing pixel, and one that is dark in one band
    run(scene(values, nodata=0 if declared else None), files, known, tmp_path / "out")
    missing = np.zeros((64, 64), bool)
    missing[16:32, 48:] = True
    if declared:  # then the file says that 0 in any band is nothing
        missing[:16, :16] = True
    for name in RASTERS:
        found = read(tmp_path / "out", name)
        assert (
            (found == NO_CLASS if found.dtype == np.uint8 else np.isnan(found)) == missing
        ).all(), name


@pytest.mark.parametrize("score", SCORES)
def test_any_score_of_one_pass_maps(tmp_path, scene, files, known, score):
    run(scene(numbers(40, 40)), files, known, tmp_path / "out", score=score)
    found, flags = read(tmp_path / "out", "score"), read(tmp_path / "out", "flagged")
    assert np.isfinite(found).all()
    assert (flags == (found > known.about["thresholds"][score])).all()


# Where it comes from


def safe(folder, values, offset):
    """A level 2A product's layout, with its 10 m bands as JPEG 2000."""
    images = folder / "S2.SAFE/GRANULE/L2A_T33/IMG_DATA/R10m"
    images.mkdir(parents=True)
    (folder / "S2.SAFE/MTD_MSIL2A.xml").write_text(
        f"<a><l><BOA_ADD_OFFSET>{-offset}</BOA_ADD_OFFSET><BOA_ADD_OFFSET>{-offset}</BOA_ADD_OFFSET></l></a>"
    )
    for band, layer in zip(("B04", "B03", "B02"), values + offset, strict=True):
        with rasterio.open(
            images / f"T33_20220613T101031_{band}_10m.jp2",
            "w",
            driver="JP2OpenJPEG",
            dtype="uint16",
            count=1,
            height=values.shape[1],
            width=values.shape[2],
            crs="EPSG:32633",
            quality=100,
            reversible="YES",
            transform=Affine(10, 0, 600000, 0, -10, 5000000),
        ) as file:
            file.write(layer.astype(np.uint16), 1)
    (images.parent / "R20m").mkdir()
    shutil.copy(
        images / "T33_20220613T101031_B02_10m.jp2",
        images.parent / "R20m/T33_20220613T101031_B02_20m.jp2",
    )
    return folder / "S2.SAFE"


def test_every_layout_gives_the_same_pixels(tmp_path, write_band):
    values, whole = numbers(40, 50), Window(0, 0, 50, 40)
    blue_first = np.concatenate([values[::-1], values[:1] * 2])  # B02, B03, B04, B08
    write_band(tmp_path / "many.tif", blue_first)
    write_band(tmp_path / "named.tif", blue_first)
    with rasterio.open(tmp_path / "named.tif", "r+") as file:
        file.descriptions = ("B02", "B03", "B04", "B08")
    write_band(tmp_path / "float.tif", (values / 10_000).astype(np.float32))
    for band, layer in zip(("B04", "B03", "B02"), values, strict=True):
        (tmp_path / "folder").mkdir(exist_ok=True)
        write_band(tmp_path / f"folder/T33_{band}.tif", layer)
    product = safe(tmp_path, values, 1000)
    for path, options in [
        ("many.tif", {"bands": ["3", 2, 1]}),
        ("named.tif", {}),
        ("named.tif", {"bands": ["B04", "B03", "B02"]}),
        ("folder", {}),
        (product, {}),
        ("float.tif", {"scale": 10_000}),
    ]:
        with open_scene(tmp_path / path, **options) as scene:
            found, valid = scene.read(whole)
        np.testing.assert_array_equal(found, values.transpose(1, 2, 0), str(path))
        assert valid.all() and found.dtype == np.uint16


def test_an_eight_bit_picture_is_taken_as_it_is(tmp_path, scene, files, known):
    values = numbers(40, 40)
    seen = to_uint8(values, 2750)
    run(scene(values), files, known, tmp_path / "digital")
    run(scene(seen, "seen.tif"), files, known, tmp_path / "seen")
    np.testing.assert_array_equal(
        read(tmp_path / "seen", "score"), read(tmp_path / "digital", "score")
    )


# Bad input


def bands_of_two_sizes(folder, write_band):
    for band, size in (("B04", 40), ("B03", 40), ("B02", 20)):
        write_band(folder / f"{band}.tif", np.ones((size, size), np.uint16))
    return folder


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda s, f, w: f / "none.tif", {}, "no scene .*none.tif: expected a GeoTIFF, a folder"),
        (lambda s, f, w: s(numbers(40, 40), crs=None), {}, "has no CRS.*rio edit-info"),
        (
            lambda s, f, w: s(numbers(40, 40)[:2]),
            {},
            r"has 2 band\(s\), expected red, green and blue: give --bands",
        ),
        (
            lambda s, f, w: s(numbers(40, 40)),
            {"bands": [1, 2, 4]},
            "has no band 4; there is: 1, 2, 3",
        ),
        (lambda s, f, w: s(numbers(40, 40)), {"bands": [1, 2]}, "the network takes 3 bands, got 2"),
        (
            lambda s, f, w: s((numbers(40, 40) / 1e4).astype("float32")),
            {},
            "reflectance in 0…1 give --scale 10000",
        ),
        (lambda s, f, w: s(np.zeros((3, 40, 40), np.uint16)), {}, "no 16×16 pixels in one piece"),
        (lambda s, f, w: s(numbers(40, 15)), {}, "is 15×40 pixels, smaller than a tile of 16"),
        (lambda s, f, w: s(numbers(40, 40)), {"stride": 17}, "stride must lie between 1 and 16"),
        (lambda s, f, w: s(numbers(40, 40)), {"scale": 0}, "scale must be positive"),
        (
            lambda s, f, w: s(np.ones((3, 40, 40), np.uint8)),
            {"scale": 10},
            "8-bit bands, which are taken as they are",
        ),
        (lambda s, f, w: bands_of_two_sizes(f, w), {}, "different grids .20×20, 40×40"),
        (lambda s, f, w: f, {}, "one 10 m file of band B04 .such as B04.tif., found none"),
        (
            lambda s, f, w: (f / "bad.tif").write_bytes(b"II*\0 no more") and f / "bad.tif",
            {},
            "bad.tif cannot be read",
        ),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_no_map(
    tmp_path, scene, write_band, files, known, make, options, message
):
    path = make(scene, tmp_path, write_band)
    with pytest.raises((DataError, ValueError), match=message):
        run(path, files, known, tmp_path / "out", **options)
    assert not (tmp_path / "out/map.json").exists() and not (tmp_path / "out/class.tif").exists()


def said(path, known, **options):
    with open_scene(path, **options) as scene:
        return " | ".join(differences(scene, known.about))


def test_a_scene_unlike_the_training_data_is_told_before_it_is_mapped(
    tmp_path, scene, files, known
):
    usual = numbers(64, 64)
    assert said(scene(usual), known) == ""
    bright = said(scene(usual + 1000, "bright.tif"), known)
    assert (
        "outside the tones of 98 %" in bright
        and "the darkest sampled pixel is 1" in bright
        and "offset 1000" in bright
    )
    assert said(tmp_path / "bright.tif", known, offset=1000) == ""
    coarse = said(scene(usual, "coarse.tif", transform=Affine(20, 0, 0, 0, -20, 0)), known)
    assert coarse == "pixels of 20 × 20 metre: the network learnt on 10 m"
    assert "degrees" in said(
        scene(usual, "turned.tif", crs="EPSG:4326", transform=Affine(1e-4, 0, 9, 0, -1e-4, 50)),
        known,
    )
    with (
        pytest.warns(UserWarning, match="outside the tones"),
        pytest.warns(UserWarning, match="offset 1000"),
    ):
        map_scene(
            tmp_path / "bright.tif",
            files / "c.pth",
            tmp_path / "out",
            known,
            stride=TILE,
            runtime=FLOAT32,
        )
    assert len(json.loads((tmp_path / "out/map.json").read_text())["warnings"]) == 2


# Calibration


def test_thresholds_keep_what_they_say_of_the_validation_images(files, known):
    store, (model, _) = (
        PatchStore.open(files / "store"),
        checkpoints.load_classifier(files / "c.pth"),
    )
    split = stratified_split(store)
    assert set(known.about["thresholds"]) == set(SCORES)
    for rows, kept in ((split.val, None), (split.test, known.about["test_flagged"])):
        features = penultimate(model, store.images[rows], FLOAT32)
        for name, threshold in known.about["thresholds"].items():
            above = (known.score(name, model, features, store.images[rows]) > threshold).mean()
            assert above == kept[name] if kept else 0 < above <= 0.05


def test_a_calibration_without_fitted_scores_needs_no_training_features(files, tmp_path):
    store, (model, about) = (
        PatchStore.open(files / "store"),
        checkpoints.load_classifier(files / "c.pth"),
    )
    split = stratified_split(store)
    few = fit_thresholds(
        model, about, files / "c.pth", store, split, ["energy"], keep=0.93, runtime=FLOAT32
    )
    assert few.features_N_D.size == 0 and few.about["keep"] == 0.93
    val = few.score(
        "energy",
        model,
        penultimate(model, store.images[split.val], FLOAT32),
        store.images[split.val],
    )
    assert (val > few.about["thresholds"]["energy"]).sum() == 1  # of 21: two would be more than 7 %
    path = few.save(tmp_path / "few.npz")
    assert path.stat().st_size < 20_000
    assert Thresholds.load(path, files / "c.pth").about == few.about
    with pytest.raises(DataError, match="no threshold of 'knn' but of energy: calibrate again"):
        Thresholds.load(path, files / "c.pth", "knn")


def test_a_calibration_of_something_else_is_refused(files, tmp_path):
    path = thresholds_path(files / "c.pth")
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(DataError, match=r"is of the checkpoint c\.pth, not of other\.pth"):
        Thresholds.load(path, tmp_path / "other.pth")
    with pytest.raises(DataError, match="no calibration"):
        Thresholds.load(tmp_path / "none.npz", files / "c.pth")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        Thresholds.load(tmp_path / "cut.npz", files / "c.pth")


def test_calibrating_with_another_split_is_refused(files, tmp_path):
    """Its validation images would be training images, which no score finds strange."""
    store, (model, about) = (
        PatchStore.open(files / "store"),
        checkpoints.load_classifier(files / "c.pth"),
    )
    own, other = stratified_split(store), stratified_split(store, 1)
    about["images"] = fingerprint(store.images, store.labels, own.train, own.val, own.test)
    fit_thresholds(model, about, files / "c.pth", store, own, runtime=FLOAT32)
    with pytest.raises(DataError, match="trained on another split of"):
        fit_thresholds(model, about, files / "c.pth", store, other, runtime=FLOAT32)


def test_calibrating_with_other_data_or_scores_is_refused(files, tmp_path):
    model, about = checkpoints.load_classifier(files / "c.pth")
    images = ((str(n), n % 3, np.full((TILE, TILE, 3), n, np.uint8)) for n in range(60))
    other = PatchStore.write(
        tmp_path / "other", images, {"kind": "eurosat-rgb", "classes": CLASSES}
    )
    with pytest.raises(DataError, match="give the store it was trained with"):
        fit_thresholds(model, about, files / "c.pth", other, stratified_split(other))
    store = PatchStore.open(files / "store")
    with pytest.raises(ValueError, match=r"no map by \['mutual_information'\]"):
        fit_thresholds(
            model, about, files / "c.pth", store, stratified_split(store), ["mutual_information"]
        )


# Stopped and started again


def test_a_killed_run_continues_and_gives_the_same_bytes(
    tmp_path, scene, files, known, monkeypatch
):
    monkeypatch.setattr(tiles, "STRIP_TILES", 1)
    path, done = scene(numbers(300, 100)), tmp_path / "killed/.unfinished/done.npy"
    run(path, files, known, tmp_path / "whole")
    process = killable.start(killable.map_slowly, path, files / "c.pth", tmp_path / "killed")
    begun = done.with_name("settings.json")  # until it is there, the other files may be half made
    while process.is_alive() and not (begun.is_file() and np.load(done).sum() >= 3):
        time.sleep(0.002)
    process.kill()  # SIGKILL
    process.join()
    assert process.exitcode == -9 and 0 < np.load(done).mean() < 1
    before = np.load(done).copy()
    asked, score_strip = [], tiles._score_strip
    monkeypatch.setattr(
        tiles, "_score_strip", lambda *args: asked.append(len(args[4])) or score_strip(*args)
    )
    run(path, files, known, tmp_path / "killed")
    assert sum(asked) == (~before).sum()  # rows of tiles
    for name in RASTERS:
        assert (tmp_path / "killed" / f"{name}.tif").read_bytes() == (
            tmp_path / "whole" / f"{name}.tif"
        ).read_bytes()
    assert not done.parent.exists()


def test_a_finished_map_is_not_made_again_and_another_one_not_mixed_in(
    tmp_path, scene, files, known, monkeypatch
):
    path = scene(numbers(40, 40))
    first = run(path, files, known, tmp_path / "out")
    monkeypatch.setattr(tiles, "_score_strip", None)  # would fail if asked
    assert run(path, files, known, tmp_path / "out") == first
    with pytest.raises(
        DataError, match=r"begun otherwise \(score was 'energy', now 'knn'; threshold was"
    ):
        run(path, files, known, tmp_path / "out", score="knn")


def test_a_map_whose_missing_pixels_are_nan_is_known_again(tmp_path, scene, files, known):
    values = numbers(40, 40).astype("float32")
    values[:, :16, :16] = np.nan
    path = scene(values)
    first = run(path, files, known, tmp_path / "out", nodata=np.nan)
    assert run(path, files, known, tmp_path / "out", nodata=np.nan) == first


def test_no_more_than_a_strip_is_in_memory(tmp_path, scene, files, known, monkeypatch):
    read_rows, heights = tiles.Scene.read, []
    monkeypatch.setattr(
        tiles.Scene,
        "read",
        lambda self, window: heights.append(window.height) or read_rows(self, window),
    )
    monkeypatch.setattr(tiles, "STRIP_TILES", 40)
    run(scene(numbers(320, 160)), files, known, tmp_path / "out")
    assert max(heights) == 4 * TILE  # 40 tiles are four rows of ten


# What people look at, and the command


def test_pictures_show_the_scene_and_its_map(tmp_path, scene, files, known):
    path = scene(numbers(64, 80))
    summary = run(path, files, known, tmp_path / "out")
    figure = map_panels(path, tmp_path / "out")
    drawn = [axis for axis in figure.axes if axis.get_images()]
    assert [axis.get_images()[0].get_array().shape[:2] for axis in drawn] == [(64, 80)] * 4
    assert f"{summary['flagged']:.1%}" in drawn[3].get_title()
    names = {text.get_text().rsplit(" ", 1)[0] for text in figure.legends[0].get_texts()}
    assert names == {name for name, share in summary["classes"].items() if share}
    with open_scene(path) as opened:
        both = scene_both_ways(opened, known.about)
    seen = both.axes[1].get_images()[0].get_array()
    np.testing.assert_array_equal(seen, to_uint8(numbers(64, 80).transpose(1, 2, 0), 2750))


def test_the_command_calibrates_maps_and_says_how_much_is_flagged(
    tmp_path, scene, files, run_module
):
    path, checkpoint = (
        scene(numbers(40, 40) + 1000),
        Path(shutil.copy(files / "c.pth", tmp_path / "c.pth")),
    )
    common = (path, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--stride", 16)
    done = run_module("src.map", *common, "--store", files / "store")
    assert done.returncode == 0, done.stderr
    assert "% of the mapped pixels flagged by energy" in done.stdout and "pixels/s" in done.stdout
    assert [
        line
        for line in done.stderr.splitlines()
        if line.startswith("warning: ") and "offset 1000" in line
    ]
    assert (tmp_path / "out/map.png").is_file() and thresholds_path(checkpoint).is_file()


def test_the_commands_picture_is_of_the_bands_it_mapped(tmp_path, scene, files, known, monkeypatch):
    """B02, B03, B04 in the file, as reflectance: the same picture as of B04, B03, B02 in digital
    numbers.
    """

    def command(folder, path, *options):
        words = (
            "map",
            path,
            "--checkpoint",
            files / "c.pth",
            "--out",
            tmp_path / folder,
            "--stride",
            TILE,
            *options,
        )
        monkeypatch.setattr("sys.argv", [str(word) for word in words])
        main()
        return plt.imread(tmp_path / folder / "map.png")

    (tmp_path / "other").mkdir()
    turned = scene((numbers(40, 40)[::-1] / 10_000).astype("float64"), "other/scene.tif")
    plain = command("plain", scene(numbers(40, 40)))
    np.testing.assert_array_equal(
        command("turned", turned, "--bands", 3, 2, 1, "--scale", 10_000), plain
    )
