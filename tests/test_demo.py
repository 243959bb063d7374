"""The demo data: the same for one seed, in the real sets' formats, and whole or not there."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torchvision
from PIL import Image

from src.data.demo import GENERATOR_VERSION, PAINTERS, make_demo
from src.data.images import ALLBANDS, CLASSES, FILE_BANDS

COUNTS = {"bigearthnet": 8, "eurosat_per_class": 20, "ucmerced_per_class": 3}
TINY = {"bigearthnet": 2, "eurosat_per_class": 2, "ucmerced_per_class": 2, "progress": False}
SIZES = (
    dict.fromkeys(("B02", "B03", "B04", "B08"), 120)
    | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 60)
    | dict.fromkeys(("B01", "B09"), 20)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("data") / "demo", **COUNTS, progress=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny demo; only to be read."""
    return make_demo(tmp_path_factory.mktemp("tiny") / "demo", **TINY)


@pytest.fixture
def tiny(made, tmp_path):
    """A copy of it, to do with as one likes."""
    return shutil.copytree(made, tmp_path / "demo")


def tree(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def patches(root: Path) -> list[Path]:
    return sorted((root / "BigEarthNet-v1.0").iterdir())


def images(root: Path) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = [], []
    for label, name in enumerate(CLASSES):
        for file in sorted((root / "eurosat/2750" / name).glob("*.jpg")):
            pixels.append(np.asarray(Image.open(file)))
            labels.append(label)
    return np.stack(pixels), np.array(labels)


def test_same_bytes_for_one_seed_and_others_for_another(made, tmp_path):
    (tmp_path / "again").mkdir()  # an empty folder is used
    first, again, other = (
        tree(root)
        for root in (
            made,
            make_demo(tmp_path / "again", **TINY),
            make_demo(tmp_path / "other", **TINY, seed=6),
        )
    )
    assert "demo.json" in first and first == again
    assert first.keys() == other.keys()
    same = {name for name in first if first[name] == other[name]}
    # names and places of the patches do not hang on the seed, pictures do
    assert not {name for name in same if name.endswith((".jpg", ".tif"))}


def test_an_image_does_not_depend_on_how_many_were_made_before_it(made, root):
    few, more = tree(made), tree(root)
    shared = few.keys() & more.keys() - {"demo.json", "splits/train.csv"}
    assert len(shared) == len(few) - 2
    assert all(few[name] == more[name] for name in shared)


def test_patches_have_twelve_bands_of_the_right_size_and_place(root):
    corners = set()
    for folder in patches(root):
        names = {f"{folder.name}_{band}.tif" for band in SIZES}
        assert {file.name for file in folder.glob("*.tif")} == names
        for band, size in SIZES.items():
            with rasterio.open(folder / f"{folder.name}_{band}.tif") as file:
                assert (file.count, *file.shape, *file.dtypes) == (1, size, size, "uint16"), band
                assert file.crs.to_epsg() == 32633
                assert file.res == (1200 / size, 1200 / size)
                bounds, values = file.bounds, file.read(1)
            assert values.min() >= 1 and values.max() <= 10_000
            assert 100 < values.mean() < 6_000
        assert (bounds.right - bounds.left, bounds.top - bounds.bottom) == (1200, 1200)
        assert bounds.left % 1200 == 0
        corners.add((bounds.left, bounds.top))
    assert len(corners) == COUNTS["bigearthnet"]


def test_patch_metadata_is_that_of_the_real_set(root):
    known = {label for _, label in PAINTERS.values()}
    for folder in patches(root):
        metadata = json.loads((folder / f"{folder.name}_labels_metadata.json").read_text())
        keys = "labels coordinates projection tile_source acquisition_date"
        assert set(metadata) == set(keys.split())
        assert set(metadata["labels"]) <= known and 1 <= len(metadata["labels"]) <= 2
        assert rasterio.CRS.from_wkt(metadata["projection"]).to_epsg() == 32633
        with rasterio.open(folder / f"{folder.name}_B02.tif") as file:
            left, bottom, right, top = file.bounds
        corners = {"ulx": left, "uly": top, "lrx": right, "lry": bottom}
        assert metadata["coordinates"] == corners


def test_split_lists_every_patch_once(root):
    names = (root / "splits/train.csv").read_text().splitlines()
    assert sorted(names) == [folder.name for folder in patches(root)]


def test_eurosat_lies_where_torchvision_looks(root):
    assert len(torchvision.datasets.EuroSAT(root)) == 10 * COUNTS["eurosat_per_class"]


def test_eurosat_has_ten_classes_of_64_pixel_jpegs_with_its_brightness(root):
    assert tuple(PAINTERS) == CLASSES
    assert sorted(path.name for path in (root / "eurosat/2750").iterdir()) == sorted(CLASSES)
    for name in CLASSES:
        expected = {f"{name}_{n}.jpg" for n in range(1, COUNTS["eurosat_per_class"] + 1)}
        assert {path.name for path in (root / "eurosat/2750" / name).iterdir()} == expected
    pixels, _ = images(root)
    assert pixels.shape[1:] == (64, 64, 3) and pixels.dtype == np.uint8
    # the real set: 88, 97, 104
    assert np.allclose(pixels.mean((0, 1, 2)), (88, 97, 104), atol=15)
    assert pixels[..., 2].mean() > pixels[..., 0].mean()


def test_ucmerced_images_are_high_contrast_rgb_tiffs_two_of_them_of_odd_size(root):
    odd = 0
    for name in ("airplane", "storagetanks", "tenniscourt"):
        files = sorted((root / "UCMerced_LandUse/Images" / name).iterdir())
        assert [file.name for file in files] == [
            f"{name}{n:02d}.tif" for n in range(COUNTS["ucmerced_per_class"])
        ]
        for file in files:
            with Image.open(file) as image:
                assert (image.format, image.mode) == ("TIFF", "RGB")
                odd += image.size != (256, 256)
                assert np.asarray(image).std((0, 1)).mean() > 12
    assert odd == 2


def test_second_call_writes_nothing(root):
    before = {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}
    assert make_demo(root, **COUNTS, progress=False) == root
    assert {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))} == before


def test_the_scene_has_the_bands_of_one_grid_a_slanted_edge_and_what_no_class_is(root):
    layers = []
    for band in ("B02", "B03", "B04", "B08"):
        with rasterio.open(root / f"scenes/made_scene/{band}.tif") as file:
            assert (file.count, *file.shape, *file.dtypes) == (1, 500, 620, "uint16")
            assert file.nodata is None
            assert file.crs.to_epsg() == 32633 and file.res == (10, 10)
            layers.append(file.read(1))
    scene = np.stack(layers, -1)
    nothing = (scene == 0).all(-1)
    assert nothing[0].sum() < nothing[-1].sum() and not nothing[:, :550].any()
    assert (scene[~nothing] > 0).all()
    cloud, ground = scene[400:490, 400:550, :3], scene[:380, :550, :3]
    assert cloud.mean() > 2 * ground.mean()
    jpegs, _ = images(root)
    shown = (ground / 2750 * 255).clip(0, 255)
    assert abs(shown.mean() - jpegs.mean()) < 30  # of the same brightness as EuroSAT


def test_other_arguments_replace_the_demo(tiny):
    (tiny / "stale").touch()
    make_demo(tiny, **{**TINY, "eurosat_per_class": 1})
    assert not (tiny / "stale").exists()
    assert len(list(tiny.glob("eurosat/2750/*/*.jpg"))) == len(CLASSES)
    assert [path.name for path in tiny.parent.iterdir()] == ["demo"]


def test_a_demo_of_an_older_generator_is_replaced(tiny):
    arguments = json.loads((tiny / "demo.json").read_text())
    arguments["generator_version"] -= 1
    (tiny / "demo.json").write_text(json.dumps(arguments))
    make_demo(tiny, **TINY)
    assert json.loads((tiny / "demo.json").read_text())["generator_version"] == GENERATOR_VERSION


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not ours"):
        make_demo(tmp_path, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.fixture(params=[RuntimeError, KeyboardInterrupt])
def interruption(request, monkeypatch):
    def stop(rng, n):
        raise request.param

    monkeypatch.setitem(PAINTERS, "River", (stop, "Water courses"))
    return request.param


def test_an_interrupted_run_leaves_nothing(tmp_path, interruption):
    with pytest.raises(interruption):
        make_demo(tmp_path / "demo", **TINY)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_replacement_keeps_the_old_demo(tiny, interruption):
    before = tree(tiny)
    with pytest.raises(interruption):
        make_demo(tiny, seed=1, **TINY)
    assert tree(tiny) == before
    assert [path.name for path in tiny.parent.iterdir()] == ["demo"]


def test_colours_tell_the_classes_apart_but_not_all_the_way(root):
    """Too little, and a network is less sure of them than of what it has never seen."""
    pixels, labels = images(root)
    colours = np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], axis=1)
    colours = (colours - colours.mean(0)) / colours.std(0)
    hits = 0
    for row, label in enumerate(labels):
        others = np.arange(len(labels)) != row
        means = [colours[others & (labels == n)].mean(0) for n in range(len(CLASSES))]
        hits += np.linalg.norm(means - colours[row], axis=1).argmin() == label
    # of 20 images a class: 0.39 on EuroSAT; 0.35 while these classes shared their grounds
    assert 0.45 < hits / len(labels) < 0.7


def test_bands_are_those_of_the_classes_grounds(root):
    darkness, vegetation, lowest = {}, {}, []
    for name in CLASSES:
        files = sorted((root / "eurosat" / ALLBANDS / name).glob("*.tif"))
        values = np.stack([rasterio.open(file).read() for file in files]).astype(float)
        lowest.append(values.min())
        assert values.max() < 7_000 and values.shape[1:] == (len(FILE_BANDS), 64, 64)
        mean = dict(zip(FILE_BANDS, values.mean((0, 2, 3)), strict=True))
        darkness[name] = mean["B04"]
        vegetation[name] = (mean["B08"] - mean["B04"]) / (mean["B08"] + mean["B04"])  # NDVI
    assert min(lowest) > 0
    assert sorted(darkness, key=darkness.get)[:2] == ["Forest", "SeaLake"]
    assert sorted(vegetation, key=vegetation.get, reverse=True)[:2] == ["Forest", "Pasture"]
    bare = {"Industrial", "Residential", "SeaLake"}
    assert set(sorted(vegetation, key=vegetation.get)[:3]) == bare
