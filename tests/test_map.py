"""A scene in, a map and where not to believe it out: made scenes, a small untrained network."""

import dataclasses
import json
import os
import shutil
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace

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
from src.map import (
    SceneOptions,
    Thresholds,
    differences,
    fit_thresholds,
    map_scene,
    open_scene,
    thresholds_path,
    tiles,
)
from src.map.__main__ import main
from src.map.figures import class_panels, flag_panels, map_panels, scene_panels
from src.map.rasters import NO_CLASS, RASTERS
from src.map.scene_checks import radiometry, rendered, sampled_tiles
from src.map.thresholds import DEFAULT_MASK, SCORES, WITHOUT_FEATURES, shipped_path
from src.map.tiles import TileGrid, blend, tile_starts
from src.map.tones import other_order, strange_tones, usual_tones
from src.ood import penultimate
from src.profiles import ROOT
from src.runs import fingerprint
from src.runs.runtime import pick

SHIPPED = sorted((ROOT / "models").glob("final_supervised_model_*.pth"))
TILE, CLASSES, FLOAT32 = 16, ["Sea", "Forest", "Town"], pick("cpu", "float32")


def covers(rng, size, n):
    """n scenes of each class as digital numbers (n, size, size, 3): each of its own roughness."""
    return [
        rng.normal(mean, spread, (n, size, size, 3)).clip(1).astype(np.uint16)
        for mean, spread in ((500, 30), (900, 150), (1500, 500))
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a checkpoint, the store it could have been trained with, and its thresholds."""
    folder, rng = tmp_path_factory.mktemp("map"), np.random.default_rng(0)
    images = (
        (f"{n}_{i}", n, to_uint8(x, 2750))
        for n, xs in enumerate(covers(rng, TILE, 70))
        for i, x in enumerate(xs)
    )
    store = PatchStore.write(folder / "store", images, {"kind": "eurosat-rgb", "classes": CLASSES})
    torch.manual_seed(0)
    model = Classifier(build_encoder("custom_cnn", image_size=TILE), len(CLASSES))
    config = {"encoder": "custom_cnn", "in_channels": 3, "image_size": TILE, "dropout": 0.1}
    metadata = {
        "config": {**config, "seed": 0},
        "classes": CLASSES,
        "data": store.provenance,
        "metrics": {"val_accuracy": 0.3},
    }
    state = {"classifier": checkpoints.clean_state(model)}
    checkpoint = checkpoints.save(folder / "c.pth", state, metadata)
    fitted = fit_thresholds(checkpoint, store, stratified_split(store), SCORES, runtime=FLOAT32)
    fitted.save(thresholds_path(checkpoint))
    return folder


@pytest.fixture(scope="module")
def thresholds(files):
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
        if len(values) == 3:
            with rasterio.open(tmp_path / name, "r+") as file:
                file.descriptions = ("B04", "B03", "B02")
        return tmp_path / name

    return write


def run(path, files, thresholds, out, *, score="energy", stride=TILE, **options):
    how = {"score": score, "stride": stride, "runtime": FLOAT32}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return map_scene(path, files / "c.pth", out, thresholds, SceneOptions(**options), **how)


def read(out, name):
    with rasterio.open(out / f"{name}.tif") as file:
        return file.read(1)


# What comes out


def test_rasters_are_cogs_on_the_very_pixels_of_the_scene(tmp_path, scene, files, thresholds):
    path = scene(numbers(600, 31), transform=Affine(10, 0, 600003.25, 0, -10, 5000007.5))
    summary = run(path, files, thresholds, tmp_path / "out")
    with rasterio.open(path) as file:
        place = file.crs, file.transform, file.shape, file.bounds
    for name, (dtype, _) in RASTERS.items():
        with rasterio.open(tmp_path / "out" / f"{name}.tif") as made:
            assert (made.crs, made.transform, made.shape, made.bounds) == place
            assert made.dtypes == (dtype,) and made.count == 1
            assert made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert made.block_shapes == [(512, 512)] and made.overviews(1) == [2]
            assert made.nodata == NO_CLASS if dtype == "uint8" else np.isnan(made.nodata)
    with rasterio.open(tmp_path / "out/class.tif") as made:
        assert [made.tags()[f"CLASS_{n}"] for n in range(3)] == CLASSES
        assert made.colormap(1)[1][:3] == (26, 66, 0)  # Forest, as in every figure
    assert summary == json.loads((tmp_path / "out/map.json").read_text())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"map.json", *(f"{name}.tif" for name in RASTERS)}


def test_every_pixel_is_the_mean_of_what_the_network_says_of_the_tiles_over_it(
    tmp_path, scene, files, thresholds
):
    values, stride = numbers(53, 70), 12
    summary = run(scene(values), files, thresholds, tmp_path / "out", stride=stride)
    model, _ = checkpoints.load_classifier(files / "c.pth")
    total, count = np.zeros((53, 70, 4)), np.zeros((53, 70, 1))
    for top in (0, 12, 24, 36, 37):  # the last ends with the scene
        for left in (0, 12, 24, 36, 48, 54):
            where = slice(top, top + TILE), slice(left, left + TILE)
            image = to_uint8(values[:, *where].transpose(1, 2, 0), 2750)[None]
            logits = thresholds.train(model).logits(penultimate(model, image, FLOAT32))
            total[where] += [*softmax(logits[0]), -np.log(np.exp(logits[0]).sum())]
            count[where] += 1
    mean = total / count
    np.testing.assert_allclose(
        read(tmp_path / "out", "confidence"), mean[..., :3].max(-1), atol=1e-5
    )
    np.testing.assert_allclose(read(tmp_path / "out", "score"), mean[..., 3], atol=1e-5)
    assert (read(tmp_path / "out", "class") == mean[..., :3].argmax(-1)).all()
    flagged = mean[..., 3] > thresholds.metadata["thresholds"]["energy"]
    assert (read(tmp_path / "out", "flagged") == flagged).all()
    assert summary["flagged"] == pytest.approx(flagged.mean()) and summary["mapped"] == 1
    shares = [(mean[..., :3].argmax(-1) == n).mean() for n in range(3)]
    assert list(summary["classes"].values()) == pytest.approx(shares)


def test_blend_leaves_out_missing_tiles_and_counts_the_rest():
    values = np.array([[[1.0], [np.nan], [3.0]]], np.float32)
    grid = TileGrid(np.array([0]), np.array([0, 2, 4]), 4)
    means, count = blend(values, grid)
    assert list(grid.edges[1]) == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(means[0, :, 0], [1, 1, 3, 3])
    np.testing.assert_array_equal(count[0], [1, 1, 1, 1])
    alone = TileGrid(np.array([0]), np.array([0]), 4)
    assert np.isnan(blend(values[:, 1:2], alone)[0]).all()


@pytest.mark.parametrize("length", [16, 17, 31, 32, 100])
def test_tiles_reach_both_ends_and_never_beyond(length):
    starts = tile_starts(length, 16, 16)
    assert starts[0] == 0 and starts[-1] + 16 == length and (np.diff(starts) <= 16).all()


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("tolerated", [0, 0.02])
def test_missing_pixels_are_not_mapped_nor_tiles_with_too_many(
    tmp_path, scene, files, thresholds, declared, tolerated
):
    values = numbers(64, 64)
    values[:, 20, 50], values[0, 5, 5] = 0, 0  # one missing pixel, and one that is dark in one band
    values[:, 40, :8] = 0  # 3 % of a tile
    path = scene(values, nodata=0 if declared else None)
    summary = run(path, files, thresholds, tmp_path / "out", missing=tolerated)
    missing = (values == 0).all(0)
    unmapped = missing.copy()
    unmapped[32:48, :16] = True
    if not tolerated:
        unmapped[16:32, 48:] = True
    for name in RASTERS:
        found = read(tmp_path / "out", name)
        assert (
            (found == NO_CLASS if found.dtype == np.uint8 else np.isnan(found)) == unmapped
        ).all(), name
    assert summary["mapped"] == pytest.approx(1 - unmapped.mean())
    told = summary["unmapped"]
    assert told["missing pixels"] == pytest.approx(missing.mean())
    assert sum(told.values()) == pytest.approx(unmapped.mean())
    assert sum(summary["classes"].values()) == pytest.approx(1)


def test_a_tile_with_a_gap_is_asked_about_with_its_medians_in_it(
    tmp_path, scene, files, thresholds
):
    whole, gap = numbers(16, 16), numbers(16, 16)
    gap[:, 3, 3:9] = 0
    medians = np.median(gap[:, (gap != 0).all(0)], axis=1).astype(np.uint16)
    whole[:, 3, 3:9] = medians[:, None]
    run(scene(whole, "whole.tif"), files, thresholds, tmp_path / "whole")
    run(scene(gap, "gap.tif"), files, thresholds, tmp_path / "gap")
    scores = [read(tmp_path / name, "score")[0, 0] for name in ("whole", "gap")]
    assert scores[0] == scores[1]


def test_the_default_mask_is_the_score_or_the_pixels_each_at_half_the_share(
    tmp_path, scene, files, thresholds
):
    path, known, pair = scene(numbers(96, 96)), thresholds.metadata, DEFAULT_MASK
    summary = run(path, files, thresholds, tmp_path / "out", score=pair)
    alone = [run(path, files, thresholds, tmp_path / name, score=name) for name in pair]
    scores = [read(tmp_path / name, "score") for name in pair]
    above = [s > known["half"][name] for s, name in zip(scores, pair, strict=True)]
    np.testing.assert_array_equal(read(tmp_path / "out", "score"), scores[0])
    np.testing.assert_array_equal(read(tmp_path / "out", "flagged_by"), above[0] + 2 * above[1])
    np.testing.assert_array_equal(read(tmp_path / "out", "flagged"), above[0] | above[1])
    assert summary["thresholds"] == {name: known["half"][name] for name in pair}
    by = summary["flagged_by"]
    assert list(by.values()) == pytest.approx([part.mean() for part in above])
    assert summary["flagged"] == pytest.approx((above[0] | above[1]).mean())
    assert all(by[name] <= one["flagged"] for name, one in zip(pair, alone, strict=True))


@pytest.mark.parametrize("score", SCORES)
def test_any_score_of_one_pass_maps(tmp_path, scene, files, thresholds, score):
    run(scene(numbers(40, 40)), files, thresholds, tmp_path / "out", score=score)
    found, flags = read(tmp_path / "out", "score"), read(tmp_path / "out", "flagged")
    assert np.isfinite(found).all()
    assert (flags == (found > thresholds.metadata["thresholds"][score])).all()


# Where it comes from


def safe(folder, values, offset, write_band):
    """A level 2A product's layout, with its 10 m bands as JPEG 2000."""
    images = folder / "S2.SAFE/GRANULE/L2A_T33/IMG_DATA/R10m"
    images.mkdir(parents=True)
    added = f"<BOA_ADD_OFFSET>{-offset}</BOA_ADD_OFFSET>"
    (folder / "S2.SAFE/MTD_MSIL2A.xml").write_text(f"<a><l>{added}{added}</l></a>")
    lossless = {"driver": "JP2OpenJPEG", "quality": 100, "reversible": "YES"}
    name = "T33_20220613T101031"
    for band, layer in zip(("B04", "B03", "B02"), values + offset, strict=True):
        write_band(images / f"{name}_{band}_10m.jp2", layer.astype(np.uint16), **lossless)
    (images.parent / "R20m").mkdir()
    shutil.copy(images / f"{name}_B02_10m.jp2", images.parent / f"R20m/{name}_B02_20m.jp2")
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
    product = safe(tmp_path, values, 1000, write_band)
    for path, options in [
        ("many.tif", {"bands": ["3", 2, 1]}),
        ("named.tif", {}),
        ("named.tif", {"bands": ["B04", "B03", "B02"]}),
        ("folder", {}),
        (product, {}),
        ("float.tif", {"scale": 10_000}),
        ("float.tif", {"bands": [1, 2, 3]}),
    ]:
        with open_scene(tmp_path / path, SceneOptions(**options)) as scene:
            found, valid = scene.read(whole)
        np.testing.assert_array_equal(found, values.transpose(1, 2, 0), str(path))
        assert valid.all() and found.dtype == np.uint16


def test_an_eight_bit_picture_is_taken_as_it_is(tmp_path, scene, files, thresholds):
    values = numbers(40, 40)
    seen = to_uint8(values, 2750)
    run(scene(values), files, thresholds, tmp_path / "digital")
    run(scene(seen, "seen.tif"), files, thresholds, tmp_path / "seen")
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
            r"has 2 band\(s\), and nothing says which is red.*Give --bands",
        ),
        (
            lambda s, f, w: s(numbers(40, 40)),
            {"bands": [1, 2, 4]},
            "has no band '4'; there is: 1: B04, 2: B03",
        ),
        (lambda s, f, w: s(numbers(40, 40)), {"bands": [1, 2]}, "the network takes 3 bands, got 2"),
        (lambda s, f, w: s(np.zeros((3, 40, 40), np.uint16)), {}, "no 16×16 pixels in one piece"),
        (lambda s, f, w: s(numbers(40, 40)), {"missing": 1}, "missing is a share from 0 to below"),
        (lambda s, f, w: s(numbers(40, 40)), {"radiometry": "hazy"}, "radiometry is one of"),
        (lambda s, f, w: s(numbers(40, 15)), {}, "is 15×40 pixels, smaller than a tile of 16"),
        (lambda s, f, w: s(numbers(40, 40)), {"stride": 17}, "stride must lie between 1 and 16"),
        (lambda s, f, w: s(numbers(40, 40)), {"scale": 0}, "scale must be positive"),
        (
            lambda s, f, w: s(np.ones((3, 40, 40), np.uint8)),
            {"scale": 10},
            "8-bit bands, which are pictures: no scale, no offset, but --white",
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
    tmp_path, scene, write_band, files, thresholds, make, options, message
):
    path = make(scene, tmp_path, write_band)
    with pytest.raises((DataError, ValueError), match=message):
        run(path, files, thresholds, tmp_path / "out", **options)
    assert not (tmp_path / "out/map.json").exists() and not (tmp_path / "out/class.tif").exists()


def doubts(path, thresholds, **options):
    with open_scene(path, SceneOptions(**options)) as scene:
        return " | ".join(differences(scene, thresholds.metadata))


def test_what_is_unlike_the_training_data_is_known_before_mapping(tmp_path, scene, thresholds):
    usual = numbers(64, 64)
    assert doubts(scene(usual), thresholds) == ""
    bright = doubts(scene(usual + 1000, "bright.tif"), thresholds)
    assert "read with offset 1000 (a guess: the darkest band's 2nd percentile" in bright
    assert "With --offset 0 the median" in bright and "tones of 98 %" not in bright
    assert "outside the tones of 98 %" in doubts(tmp_path / "bright.tif", thresholds, offset=0)
    assert doubts(tmp_path / "bright.tif", thresholds, offset=1000) == ""
    coarse = scene(usual, "coarse.tif", transform=Affine(20, 0, 0, 0, -20, 0))
    assert doubts(coarse, thresholds) == "pixels of 20 × 20 metre: the network learnt on 10 m"
    degrees = {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 9, 0, -1e-4, 50)}
    assert "degrees" in doubts(scene(usual, "degrees.tif", **degrees), thresholds)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("air", [(0, 0, 0), (-119, -255, -542)])  # level 2A lacks it
def test_the_order_of_bands_is_told_by_their_contrasts_whatever_the_air(air, order):
    """Red has the most contrast, blue the least; air adds to a band and leaves that."""
    rng = np.random.default_rng(0)

    def tiles(count):
        shade = rng.gamma(9, 1 / 9, (count, TILE, TILE, 1)) ** rng.uniform(
            0.5, 1.5, (count, 1, 1, 1)
        )
        return shade * [800, 700, 500] + [150, 250, 500]

    trained = to_uint8(tiles(200).astype(np.uint16), 2750)
    known = {"stretch": 2750, **usual_tones(trained)}
    seen = to_uint8((tiles(50) + air).clip(0).astype(np.uint16), 2750)
    assert strange_tones(seen, known) == "" and other_order(seen, known) == ""
    said = other_order(seen[..., list(order)], known)
    names = [("first", "second", "third")[order.index(band)] for band in range(3)]
    assert "red {}, green {}, blue {}".format(*names) in said
    assert "outside the tones" in strange_tones(np.minimum(seen + 100.0, 255), known)


def test_the_caller_is_warned_and_map_json_keeps_the_warnings(tmp_path, scene, files, thresholds):
    path, out = scene(numbers(64, 64) + 3000), tmp_path / "out"
    with pytest.warns(UserWarning) as warned:
        map_scene(path, files / "c.pth", out, thresholds, stride=TILE, runtime=FLOAT32)
    messages = [str(warning.message) for warning in warned]
    assert "offset 1000" in messages[0] and "outside the tones" in messages[1]
    assert {warning.filename for warning in warned} == {__file__}  # so that it can filter them
    assert json.loads((out / "map.json").read_text())["warnings"] == messages


# Thresholds


def test_thresholds_keep_what_they_say_of_the_validation_images(files, thresholds):
    store, (model, _) = data_and_model(files)
    split = stratified_split(store)
    assert set(thresholds.metadata["thresholds"]) == set(SCORES)
    for rows, flagged in ((split.val, None), (split.test, thresholds.metadata["test_flagged"])):
        images = store.images[rows]
        features = penultimate(model, images, FLOAT32)
        for name, threshold in thresholds.metadata["thresholds"].items():
            above = (thresholds.score(name, model, features, images) > threshold).mean()
            assert above == flagged[name] if flagged else 0 < above <= 0.05


def data_and_model(files):
    return PatchStore.open(files / "store"), checkpoints.load_classifier(files / "c.pth")


def test_thresholds_of_logits_alone_need_no_training_features(files, tmp_path):
    store, (model, _) = data_and_model(files)
    split, checkpoint = stratified_split(store), files / "c.pth"
    few = fit_thresholds(checkpoint, store, split, ["energy"], keep=0.93, runtime=FLOAT32)
    assert few.features_N_D.size == 0 and few.metadata["keep"] == 0.93
    images = store.images[split.val]
    val = few.score("energy", model, penultimate(model, images, FLOAT32), images)
    above = val > few.metadata["thresholds"]["energy"]
    assert above.sum() == 1  # of 21: two would be more than 7 %
    path = few.save(tmp_path / "few.npz")
    assert path.stat().st_size < 20_000
    assert Thresholds.load(path, checkpoint).metadata == few.metadata
    with pytest.raises(DataError, match="no threshold of 'knn' but of energy: fit them again"):
        Thresholds.load(path, checkpoint, "knn")


@pytest.mark.parametrize("checkpoint", SHIPPED, ids=lambda path: path.stem)
def test_shipped_classifiers_come_with_thresholds_of_what_needs_no_features(checkpoint):
    """So that a map needs no EuroSAT in a fresh clone."""
    assert shipped_path(checkpoint).stat().st_size < 1_000_000
    shipped = Thresholds.load(shipped_path(checkpoint), checkpoint, DEFAULT_MASK)
    assert shipped.features_N_D.size == 0 and {"tones", "contrasts"} <= shipped.metadata.keys()
    assert set(WITHOUT_FEATURES) == shipped.metadata["half"].keys()
    assert 0.03 < shipped.metadata["test_flagged_by_two"]["energy or pixel_mahalanobis"] < 0.07


def test_thresholds_fitted_here_come_before_shipped_ones(files, tmp_path):
    checkpoint = tmp_path / "c.pth"
    shutil.copy(files / "c.pth", checkpoint)
    own = Thresholds.load(thresholds_path(files / "c.pth"), checkpoint)
    own.save(thresholds_path(checkpoint))
    known = {"energy": 1.0, "pixel_mahalanobis": 2.0}
    other = dataclasses.replace(own, metadata={**own.metadata, "thresholds": known})
    other.save(shipped_path(checkpoint))
    assert Thresholds.beside(checkpoint).metadata == own.metadata
    older = {k: v for k, v in own.metadata.items() if k != "half"}  # knows no two-part mask
    dataclasses.replace(own, metadata=older).save(thresholds_path(checkpoint))
    assert Thresholds.beside(checkpoint).metadata == other.metadata
    assert Thresholds.beside(checkpoint, "knn").metadata == older
    with pytest.raises(DataError, match="no threshold of 'odin' but of energy"):
        Thresholds.beside(checkpoint, "odin")


def test_thresholds_of_something_else_are_refused(files, tmp_path):
    path = thresholds_path(files / "c.pth")
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(DataError, match=r"is of the checkpoint c\.pth, not of other\.pth"):
        Thresholds.load(path, tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"no thresholds .*none\.npz: fit them again"):
        Thresholds.load(tmp_path / "none.npz", files / "c.pth")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        Thresholds.load(tmp_path / "cut.npz", files / "c.pth")


def test_fitting_with_another_split_is_refused(files, tmp_path):
    """Its validation images would be training images, which no score finds strange."""
    store = PatchStore.open(files / "store")
    own, other = stratified_split(store), stratified_split(store, 1)
    state, metadata = checkpoints.load(files / "c.pth")
    metadata["images"] = fingerprint(store.images, store.labels, own.train, own.val, own.test)
    checkpoint = checkpoints.save(tmp_path / "c.pth", state, metadata)
    fit_thresholds(checkpoint, store, own, runtime=FLOAT32)
    with pytest.raises(DataError, match="trained on another split of"):
        fit_thresholds(checkpoint, store, other, runtime=FLOAT32)


def test_fitting_with_other_data_or_scores_is_refused(files, tmp_path):
    meta = {"kind": "eurosat-rgb", "classes": CLASSES}
    images = ((str(n), n % 3, np.full((TILE, TILE, 3), n, np.uint8)) for n in range(60))
    other = PatchStore.write(tmp_path / "other", images, meta)
    with pytest.raises(DataError, match="give the data it was trained with"):
        fit_thresholds(files / "c.pth", other, stratified_split(other))
    store = PatchStore.open(files / "store")
    split = stratified_split(store)
    with pytest.raises(ValueError, match=r"no map by \['mutual_information'\]"):
        fit_thresholds(files / "c.pth", store, split, ["mutual_information"])
    with pytest.raises(ValueError, match="keep must lie between 0 and 1, got 1"):
        fit_thresholds(files / "c.pth", store, split, keep=1)


# Stopped and started again


def rasters(out):
    return {name: (out / f"{name}.tif").read_bytes() for name in RASTERS}


def test_a_killed_run_continues_and_gives_the_same_bytes(
    tmp_path, scene, files, thresholds, monkeypatch
):
    monkeypatch.setattr(tiles, "STRIP_TILES", 1)
    path, done = scene(numbers(1200, TILE)), tmp_path / "killed/.unfinished/done.npy"
    process = killable.start(killable.map_row_by_row, path, files / "c.pth", tmp_path / "killed")
    begun = done.with_name("settings.json")  # until it is there, the other files may be half made
    while process.is_alive() and not (begun.is_file() and np.load(done).sum() >= 3):
        time.sleep(0.002)
    process.kill()  # SIGKILL
    process.join()
    assert process.exitcode == -9 and 0 < np.load(done).mean() < 1
    run(path, files, thresholds, tmp_path / "killed")
    run(path, files, thresholds, tmp_path / "whole")
    assert rasters(tmp_path / "killed") == rasters(tmp_path / "whole")
    assert not done.parent.exists()


TOLD = {"scale": 1, "offset": 0}  # no pixel is looked at to find out


@contextmanager
def unreadable(path, row):
    """Eight rows of a scene's pixels, from there, cannot be read; nothing else tells of it."""
    whole, times = path.read_bytes(), path.stat()
    with rasterio.open(path) as file:
        keys = (f"BLOCK_{key}_0_{row // 8}" for key in ("OFFSET", "SIZE"))
        offset, size = (int(file.get_tag_item(key, "TIFF", bidx=1)) for key in keys)
    for content in (whole[:offset] + bytes(size) + whole[offset + size :], whole):
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if content != whole:
            yield


@pytest.fixture
def fragile(scene):
    """Writes a scene that `unreadable` can break."""
    return lambda values: scene(values, compress="deflate", blockysize=8)


def test_two_processes_do_not_make_one_map(scene, files, thresholds, tmp_path):
    path, folder = scene(numbers(40, 40)), tmp_path / "out/.unfinished"
    folder.mkdir(parents=True)
    process = killable.start(killable.hold, folder)
    while not (folder / "held").exists():
        time.sleep(0.005)
    with pytest.raises(DataError, match="another process is making this map"):
        run(path, files, thresholds, tmp_path / "out")
    process.kill()
    process.join()
    assert run(path, files, thresholds, tmp_path / "out")["tiles"] == 9


@pytest.mark.parametrize("threshold", [np.nan, np.inf])
def test_a_threshold_that_nothing_is_above_is_refused(files, thresholds, tmp_path, threshold):
    spoilt = replace(
        thresholds, metadata={**thresholds.metadata, "thresholds": {"energy": threshold}}
    )
    file = spoilt.save(tmp_path / "t.npz")
    with pytest.raises(DataError, match="the threshold of energy is no number"):
        Thresholds.load(file, files / "c.pth")


def test_strips_are_read_one_at_a_time_and_never_twice(
    tmp_path, fragile, files, thresholds, monkeypatch
):
    monkeypatch.setattr(tiles, "STRIP_TILES", 12)
    path = fragile(numbers(300, 40))  # three tiles a row: strips of four rows, or 64 pixels
    run(path, files, thresholds, tmp_path / "whole", **TOLD)
    with unreadable(path, 224), pytest.raises(DataError, match="cannot be read"):
        run(path, files, thresholds, tmp_path / "out", **TOLD)
    done = np.load(tmp_path / "out/.unfinished/done.npy")
    assert list(done) == [True] * 12 + [False] * 7  # those before pixel 192
    assert not (tmp_path / "out/class.tif").exists()
    with unreadable(path, 24):  # in a strip that is done
        run(path, files, thresholds, tmp_path / "out", **TOLD)
    assert rasters(tmp_path / "out") == rasters(tmp_path / "whole")


def test_a_finished_map_is_not_made_again_and_another_one_not_mixed_in(
    tmp_path, fragile, files, thresholds
):
    path = fragile(numbers(40, 40))
    first = run(path, files, thresholds, tmp_path / "out", **TOLD)
    with unreadable(path, 0):
        assert run(path, files, thresholds, tmp_path / "out", **TOLD) == first
    another = r"begun otherwise \(score was 'energy', now 'knn'; threshold was"
    with pytest.raises(DataError, match=another):
        run(path, files, thresholds, tmp_path / "out", score="knn", **TOLD)


def test_a_map_whose_missing_pixels_are_nan_is_known_again(tmp_path, scene, files, thresholds):
    values = numbers(40, 40).astype("float32")
    values[:, :16, :16] = np.nan
    path = scene(values)
    first = run(path, files, thresholds, tmp_path / "out", nodata=np.nan)
    assert run(path, files, thresholds, tmp_path / "out", nodata=np.nan) == first


# What people look at, and the command


def test_pictures_show_the_scene_and_its_map(tmp_path, scene, files, thresholds):
    path = scene(numbers(64, 80))
    summary = run(path, files, thresholds, tmp_path / "out")
    figure = map_panels(path, tmp_path / "out")
    drawn = [axis for axis in figure.axes if axis.get_images()]
    assert [axis.get_images()[0].get_array().shape[:2] for axis in drawn] == [(64, 80)] * 4
    assert f"{summary['flagged']:.1%}" in drawn[3].get_title()
    names = {text.get_text().rsplit(" ", 1)[0] for text in figure.legends[0].get_texts()}
    assert names == {name for name, share in summary["classes"].items() if share}
    with open_scene(path) as opened:
        compared = scene_panels(opened, thresholds.metadata)
    seen = compared.axes[1].get_images()[0].get_array()
    np.testing.assert_array_equal(seen, to_uint8(numbers(64, 80).transpose(1, 2, 0), 2750))
    run(path, files, thresholds, tmp_path / "two", score=("knn", "pixel_mahalanobis"))
    flags = flag_panels(path, {"energy": tmp_path / "out", "knn": tmp_path / "two"})
    titles = [axis.get_title().split(":")[0] for axis in flags.axes]
    assert titles == ["energy", "kNN or pixel statistics"]
    both = class_panels({"one": tmp_path / "out", "two": tmp_path / "two"})
    assert [axis.get_title().split(":")[0] for axis in both.axes] == ["one", "two"]
    assert {text.get_text() for text in both.legends[0].get_texts()} == names


def test_radiometry_adds_the_air_or_shifts_the_means(tmp_path, scene, files, thresholds):
    values, known = numbers(64, 64), thresholds.metadata
    product = tmp_path / "S2A_MSIL1C_20200101T0_N0208_R1_T33UVP"
    product.mkdir()
    with open_scene(scene(values), SceneOptions(radiometry="haze")) as opened:
        hazy = rendered(np.zeros((1, 3), np.uint16), known, radiometry(opened, known))
    assert hazy.tolist() == [[16, 32, 55]]  # reflectance 0.0175, 0.0351, 0.0596
    with open_scene(tmp_path / "scene.tif", SceneOptions(radiometry="match")) as opened:
        tiles = sampled_tiles(opened, TILE)
        matched = rendered(tiles, known, radiometry(opened, known))
    medians = np.median(matched.mean((1, 2)), 0)
    np.testing.assert_allclose(medians, known["tones"][1], atol=1.5)
    summary = run(tmp_path / "scene.tif", files, thresholds, tmp_path / "out", radiometry="haze")
    assert summary["radiometry"] == "haze" and summary["level"] is None
    level_1c = scene(values, product.name + "/scene.tif")
    with pytest.raises(DataError, match="level 1C, which has the air's light already"):
        run(level_1c, files, thresholds, tmp_path / "other", radiometry="haze")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (("energy", "knn", "vim"), "one score or of two different ones"),
        (("energy", "energy"), "one score or of two different ones"),
        (("energy", "odin"), "no threshold of 'odin' at half the share"),
    ],
)
def test_a_mask_is_of_one_score_or_two(files, score, message):
    with pytest.raises((DataError, ValueError), match=message):
        Thresholds.load(thresholds_path(files / "c.pth"), files / "c.pth", score)


def words(path, checkpoint, out, *options):
    given = (path, "--checkpoint", checkpoint, "--out", out, "--stride", TILE, *options)
    return [str(word) for word in given]


def test_the_command_fits_maps_and_says_how_much_is_flagged(tmp_path, scene, files, run_module):
    path, checkpoint = scene(numbers(40, 40) + 1000), tmp_path / "c.pth"
    shutil.copy(files / "c.pth", checkpoint)
    store = ("--store", files / "store", "--keep", 0.9)
    done = run_module("src.map", *words(path, checkpoint, tmp_path / "out", *store))
    assert done.returncode == 0, done.stderr
    flagged = "% of the mapped pixels flagged by energy or pixel_mahalanobis (of EuroSAT: 10%)"
    assert flagged in done.stdout
    assert "red: scene.tif, band 1" in done.stdout and "offset 1000.0 (a guess" in done.stdout
    assert "pixels/s" in done.stdout and f"thresholds: {thresholds_path(checkpoint)}" in done.stdout
    warned = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert any("offset 1000" in line for line in warned)
    assert (tmp_path / "out/map.png").is_file() and thresholds_path(checkpoint).is_file()


@pytest.fixture
def run_here(monkeypatch):
    """(scene, checkpoint, out, *options) → the command, in this process."""

    def run_main(*options):
        monkeypatch.setattr("sys.argv", ["map", *words(*options)])
        main()

    # the command sets it: give it back afterwards
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    return run_main


def test_the_commands_picture_is_of_the_bands_it_mapped(tmp_path, scene, files, run_here):
    """B02, B03, B04 in the file, as reflectance: the same picture as of digital numbers."""
    plain = scene(numbers(40, 40))
    (tmp_path / "other").mkdir()
    turned = scene((numbers(40, 40)[::-1] / 10_000).astype("float64"), "other/scene.tif")
    run_here(plain, files / "c.pth", tmp_path / "plain")
    run_here(turned, files / "c.pth", tmp_path / "turned", "--bands", 3, 2, 1, "--scale", 10_000)
    pictures = [plt.imread(tmp_path / name / "map.png") for name in ("plain", "turned")]
    np.testing.assert_array_equal(*pictures)


def test_a_shipped_classifier_maps_a_geotiff_of_ones_own(tmp_path, scene, run_here, capsys):
    """As in a fresh clone: no data set is there."""
    path = scene(numbers(80, 96), nodata=0)
    run_here(path, SHIPPED[0], tmp_path / "out", "--radiometry", "haze")
    said = capsys.readouterr().out
    assert "radiometry haze" in said and "flagged by energy or pixel_mahalanobis" in said
    with rasterio.open(tmp_path / "out/class.tif") as made:
        assert made.tags()["CLASS_9"] == "SeaLake" and made.colormap(1)[9][:3] == (0, 11, 138)
    assert (tmp_path / "out/map.png").is_file()


def test_the_command_without_its_checkpoint_names_those_there_are(tmp_path, scene, run_here):
    (tmp_path / "final_supervised_model_a.pth").write_bytes(b"")
    for wrong in (tmp_path / "b.pth", tmp_path):
        with pytest.raises(SystemExit, match=r"^error: no checkpoint .*model_a\.pth"):
            run_here(scene(numbers(40, 40)), wrong, tmp_path / "out")


def test_the_command_without_thresholds_says_how_to_get_them(tmp_path, scene, files, run_here):
    none = ("--thresholds", tmp_path / "none.npz")
    with pytest.raises(SystemExit, match=r"^error: no thresholds .*none\.npz: fit them"):
        run_here(scene(numbers(40, 40)), files / "c.pth", tmp_path / "out", *none)
