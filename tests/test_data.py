"""The three data sets read from real files, and every way those files are known to be broken."""

import errno
import os
import tempfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.data import coordinates
from src.data.bands import RGB
from src.data.bigearthnet import Selection, __main__, bigearthnet_store
from src.data.bigearthnet.patch import read_patch
from src.data.images import (
    CLASSES,
    STUDY_CLASSES,
    UCMERCED,
    class_folder_store,
    eurosat_allbands_store,
    eurosat_store,
    read_allbands,
)
from src.data.splits import read_split, stratified_split
from src.data.store import PatchStore
from src.errors import DataError

NAMES = [
    "S2A_MSIL2A_20170613T101031_9_5",
    "S2B_MSIL2A_20180413T095029_1_2",
    "S2A_MSIL2A_20171208T093351_30_41",
]


def cut(file, keep):
    """Keep so many bytes of a file, or such a share of them."""
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])


# BigEarthNet: one patch


def read_rgb(folder, stretch=2750.0):
    return read_patch(folder, None, RGB, stretch)


def test_rgb_is_b04_b03_b02(tmp_path, write_patch):
    full = np.ones((120, 120))
    folder = write_patch(tmp_path, NAMES[0], B04=2750 * full, B03=1375 * full, B02=550 * full)
    image = read_rgb(folder)
    assert image.shape == (120, 120, 3) and image.dtype == np.uint8
    assert np.unique(image.reshape(-1, 3), axis=0).tolist() == [[255, 127, 51]]


@pytest.mark.parametrize(("stretch", "arguments"), [(2750, {}), (10000, {"stretch": 10000.0})])
def test_digital_numbers_are_stretched_and_clipped_exactly(
    tmp_path, write_patch, stretch, arguments
):
    dn = np.arange(120 * 120).reshape(120, 120)  # every number from 0 to far above white
    image = read_rgb(write_patch(tmp_path, NAMES[0], B04=dn, B03=dn + 50000, B02=dn.T), **arguments)
    # in whole numbers: no rounding to agree with by accident
    expected = np.minimum(dn * 255 // stretch, 255)
    np.testing.assert_array_equal(image[..., 0], expected)
    np.testing.assert_array_equal(image[..., 1], 255)
    np.testing.assert_array_equal(image[..., 2], expected.T)


def test_a_missing_patch_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=f"{NAMES[0]} is missing"):
        read_rgb(tmp_path / NAMES[0])


def test_a_missing_band_is_named(tmp_path, write_patch):
    folder = write_patch(tmp_path, NAMES[0])
    (folder / f"{NAMES[0]}_B02.tif").unlink()
    with pytest.raises(DataError, match=f"{NAMES[0]}_B02.tif is missing"):
        read_rgb(folder)


DN = np.full((120, 120), 500)
HOLED = np.where(np.eye(120) > 0, 0, DN)


@pytest.mark.parametrize(
    ("band", "profile", "reason"),
    [
        (DN[:60, :60].astype(np.uint16), {}, "expected 1 band of 120×120, got 1 of 60×60"),
        (DN[:, :119].astype(np.uint16), {}, "got 1 of 120×119"),
        (np.stack([DN, DN]).astype(np.uint16), {}, "got 2 of 120×120"),
        (DN.astype(np.int16), {}, "expected uint16 digital numbers, got int16"),
        (DN.astype(np.float32), {}, "expected uint16 digital numbers, got float32"),
        (DN.astype(np.uint8), {}, "expected uint16 digital numbers, got uint8"),
        (np.where(HOLED, HOLED, np.nan).astype(np.float32), {}, "NaN or infinite"),
        (np.where(HOLED, HOLED, np.inf).astype(np.float32), {}, "NaN or infinite"),
        (np.where(HOLED, HOLED, np.nan).astype(np.float32), {"nodata": np.nan}, "NaN or infinite"),
        (HOLED.astype(np.uint16), {"nodata": 500}, r"14280 pixels of nodata \(500\)"),
        (0 * DN.astype(np.uint16), {"nodata": 0}, r"14400 pixels of nodata \(0\)"),
    ],
    ids=[
        *("small", "narrow", "two bands", "int16", "float32", "uint8"),
        *("NaN", "inf", "NaN as nodata", "nodata", "nothing but nodata 0"),
    ],
)
def test_a_band_of_another_kind_is_refused_by_name(
    tmp_path, write_patch, write_band, band, profile, reason
):
    folder = write_patch(tmp_path, NAMES[0])
    write_band(folder / f"{NAMES[0]}_B03.tif", band, **profile)
    with pytest.raises(DataError, match=f"{NAMES[0]}_B03.tif.*{reason}"):
        read_rgb(folder)


def test_a_declared_nodata_value_that_no_pixel_has_is_fine(tmp_path, write_patch, write_band):
    folder = write_patch(tmp_path, NAMES[0])
    write_band(folder / f"{NAMES[0]}_B03.tif", DN.astype(np.uint16), nodata=0)
    assert (read_rgb(folder)[..., 1] == 500 * 255 // 2750).all()


@pytest.mark.parametrize("options", [{}, {"compress": "deflate"}], ids=["plain", "deflate"])
# nothing, parts of the header, of the data
@pytest.mark.parametrize("keep", [0, 3, 60, 300, 0.5, 0.99], ids="{}".format)
def test_a_cut_geotiff_is_never_filled_up(tmp_path, write_patch, write_band, options, keep):
    folder = write_patch(tmp_path, NAMES[0])
    file = folder / f"{NAMES[0]}_B04.tif"
    write_band(
        file, np.random.default_rng(0).integers(1, 3000, (120, 120), dtype=np.uint16), **options
    )
    read_rgb(folder)  # whole, it is fine
    cut(file, keep)
    with pytest.raises(DataError, match=f"{NAMES[0]}_B04.tif cannot be read"):
        read_rgb(folder)


# BigEarthNet: the store


@pytest.fixture
def bigearthnet(tmp_path, write_patch):
    root = tmp_path / "BigEarthNet-v1.0"
    for name in NAMES:
        write_patch(root, name)
    return root


def listed(tmp_path, names):
    (tmp_path / "train.csv").write_text("\n".join(names) + "\n")
    return Selection(tmp_path / "train.csv")


STORE = ["SHA256SUMS", "images.npy", "index.csv", "meta.json"]


def files_in(folder):
    return sorted(p.name for p in folder.iterdir())


def test_every_folder_is_taken_when_no_list_is_given(tmp_path, bigearthnet):
    store = bigearthnet_store(bigearthnet, tmp_path / "store")
    assert store.names.tolist() == sorted(NAMES)
    assert store.labels is None
    for name, image in zip(store.names, store.images, strict=True):
        np.testing.assert_array_equal(image, read_rgb(bigearthnet / name))


def test_the_list_decides_which_patches_and_their_order(tmp_path, bigearthnet):
    # with a second column and blank lines, as in the lists that come with Sentinel-1
    lines = [f"{NAMES[2]},S1A_IW_GRDH", "", f" {NAMES[0]} ,S1B_IW_GRDH", ""]
    store = bigearthnet_store(bigearthnet, tmp_path / "store", listed(tmp_path, lines))
    assert store.names.tolist() == [NAMES[2], NAMES[0]]


@pytest.mark.parametrize("missing", ["root", "list"])
def test_a_missing_root_or_list_is_named_and_nothing_is_written(tmp_path, bigearthnet, missing):
    root = tmp_path / "nowhere" if missing == "root" else bigearthnet
    split = tmp_path / "nowhere.csv" if missing == "list" else None
    with pytest.raises(DataError, match="nowhere"):
        bigearthnet_store(root, tmp_path / "stores" / "store", Selection(split))
    assert not (tmp_path / "stores").exists()


def test_too_many_unreadable_patches_stop_the_build_with_all_of_them_listed(tmp_path, bigearthnet):
    cut(bigearthnet / NAMES[1] / f"{NAMES[1]}_B03.tif", 0.5)
    selection = listed(tmp_path, [NAMES[0], NAMES[1], "S2A_NOT_THERE", NAMES[2]])
    out = tmp_path / "stores"
    with pytest.raises(DataError, match="2 of 4 patches unreadable") as caught:
        bigearthnet_store(bigearthnet, out / "store", selection, max_unreadable=0.49)
    for part in (f"{NAMES[1]}_B03.tif cannot be read", "store-unreadable.csv", "49%"):
        assert part in str(caught.value)
    report = pd.read_csv(out / "store-unreadable.csv")
    assert report["name"].tolist() == [NAMES[1], "S2A_NOT_THERE"]
    assert "cannot be read" in report["reason"][0] and "is missing" in report["reason"][1]
    # no half store under the store's name
    assert files_in(out) == ["store-unreadable.csv", "store.building"]


def test_few_unreadable_patches_are_left_out_listed_and_counted(tmp_path, bigearthnet, capsys):
    cut(bigearthnet / NAMES[1] / f"{NAMES[1]}_B03.tif", 0.5)
    selection = listed(tmp_path, [NAMES[0], NAMES[1], NAMES[2], "S2A_NOT_THERE"])
    out = tmp_path / "stores"
    # exactly as many as tolerated
    store = bigearthnet_store(bigearthnet, out / "store", selection, max_unreadable=0.5)
    assert store.names.tolist() == [NAMES[0], NAMES[2]]
    # what is there is what was read: no black image in the place of a broken one
    expected = [read_rgb(bigearthnet / name) for name in (NAMES[0], NAMES[2])]
    np.testing.assert_array_equal(store.images, expected)
    assert pd.read_csv(out / "store-unreadable.csv")["name"].tolist() == [NAMES[1], "S2A_NOT_THERE"]
    assert "Left out: 2 of 4 patches unreadable" in capsys.readouterr().out


def test_nothing_readable_at_all_is_an_error_even_if_everything_is_tolerated(tmp_path, bigearthnet):
    selection = listed(tmp_path, ["S2A_X"])
    with pytest.raises(DataError, match="no readable patches"):
        bigearthnet_store(bigearthnet, tmp_path / "store", selection, max_unreadable=1.0)


def test_another_stretch_does_not_open_the_old_store(tmp_path, bigearthnet):
    bigearthnet_store(bigearthnet, tmp_path / "store")
    with pytest.raises(DataError, match=r"stretch was 2750\.0, now 10000\.0"):
        bigearthnet_store(bigearthnet, tmp_path / "store", stretch=10000.0)


def run_main(monkeypatch, module, *arguments):
    monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_command_line_builds_a_store(tmp_path, bigearthnet, monkeypatch, capsys):
    listed(tmp_path, NAMES[:2])
    options = ("--split", tmp_path / "train.csv", "--stretch", "10000")
    run_main(monkeypatch, __main__, bigearthnet, tmp_path / "store", *options)
    assert f"{tmp_path / 'store'}: 2 patches" in capsys.readouterr().out
    store = PatchStore.open(tmp_path / "store")
    expected = [read_rgb(bigearthnet / name, 10000.0) for name in NAMES[:2]]
    np.testing.assert_array_equal(store.images, expected)


def test_command_line_takes_every_selection(tmp_path, bigearthnet, monkeypatch):
    pd.DataFrame({"patch_id": NAMES, "country": "Austria"}).to_csv(tmp_path / "meta.csv")
    (tmp_path / "snow.csv").write_text(NAMES[1])
    options = [
        *("--metadata", tmp_path / "meta.csv", "--exclude", tmp_path / "snow.csv"),
        *("--countries", "Austria", "Serbia", "--months", 6, 12, "--fraction", 0.5, "--seed", 4),
    ]
    run_main(monkeypatch, __main__, bigearthnet, tmp_path / "store", *options)
    assert PatchStore.open(tmp_path / "store").meta["selection"] == {
        "metadata": "meta.csv",
        "exclude": ["snow.csv"],
        "countries": ["Austria", "Serbia"],
        "months": [6, 12],
        "fraction": 0.5,
        "seed": 4,
    }


def test_command_line_fails_in_one_line(tmp_path, bigearthnet, run_module, one_error_line):
    cut(bigearthnet / NAMES[1] / f"{NAMES[1]}_B02.tif", 0)
    line = one_error_line(run_module("src.data.bigearthnet", bigearthnet, tmp_path / "store"))
    assert "1 of 3 patches unreadable" in line and f"{NAMES[1]}_B02.tif" in line
    assert not (tmp_path / "store").exists()


# EuroSAT


def test_eurosat_is_read_in_natural_order_with_its_labels(tmp_path, eurosat):
    store = eurosat_store(eurosat, tmp_path / "store")
    # not 1, 10, 2
    assert store.names.tolist() == [f"{name}_{n}" for name in CLASSES for n in (1, 2, 10)]
    assert store.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert store.meta["classes"] == list(CLASSES)
    for name, image in zip(store.names, store.images, strict=True):
        with Image.open(eurosat / name.split("_")[0] / f"{name}.jpg") as file:
            np.testing.assert_array_equal(image, file)


def test_eurosat_somewhere_else_is_named(tmp_path):
    with pytest.raises(DataError, match=r"EuroSAT not found: no folder .*2750"):
        eurosat_store(tmp_path / "2750", tmp_path / "store")


@pytest.mark.parametrize("state", ["empty", "missing"])
def test_a_class_without_images_is_named(tmp_path, eurosat, state):
    for file in (eurosat / "River").iterdir():
        file.unlink()
    if state == "missing":
        (eurosat / "River").rmdir()
    with pytest.raises(DataError, match=f"River is {state}"):
        eurosat_store(eurosat, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_folder_outside_the_ten_classes_is_refused(tmp_path, eurosat):
    (eurosat / "Desert").mkdir()
    with pytest.raises(DataError, match=r"not EuroSAT classes: \['Desert'\]"):
        eurosat_store(eurosat, tmp_path / "store")


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99], ids="{}".format)
def test_a_cut_jpeg_is_refused_by_name(tmp_path, eurosat, keep):
    file = eurosat / "Forest" / "Forest_2.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)  # with data to its very end, unlike one plain colour
    cut(file, keep)
    with pytest.raises(DataError, match=r"Forest_2\.jpg cannot be read"):
        eurosat_store(eurosat, tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_that_is_not_rgb_is_refused_by_name(tmp_path, eurosat, mode):
    Image.new(mode, (16, 16)).save(eurosat / "SeaLake" / "SeaLake_1.jpg")
    message = rf"SeaLake_1\.jpg: expected an 8-bit RGB image, got mode {mode}"
    with pytest.raises(DataError, match=message):
        eurosat_store(eurosat, tmp_path / "store")


def test_an_image_of_another_size_is_refused_by_name(tmp_path, eurosat):
    Image.new("RGB", (16, 15)).save(eurosat / "Highway" / "Highway_2.jpg")
    with pytest.raises(DataError, match=r"Highway_2\.jpg: expected \(16, 16, 3\)"):
        eurosat_store(eurosat, tmp_path / "store")


# EuroSAT in all bands


def test_all_bands_of_eurosat_come_in_the_order_of_bigearthnet_without_b10(tmp_path, write_band):
    numbers = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 88], np.uint16)  # in the files
    for label, name in enumerate(CLASSES):
        (tmp_path / "tif" / name).mkdir(parents=True)
        for n in (10, 2):
            values = (1000 * label + 10 * n + numbers).astype(np.uint16)
            bands = np.broadcast_to(values[:, None, None], (13, 64, 64))
            write_band(tmp_path / "tif" / name / f"{name}_{n}.tif", bands)
    store = eurosat_allbands_store(tmp_path / "tif", tmp_path / "store")
    assert store.images.shape == (20, 64, 64, 12) and store.images.dtype == np.uint16
    assert store.names.tolist() == [f"{name}_{n}" for name in CLASSES for n in (2, 10)]
    wanted = [1, 2, 3, 4, 5, 6, 7, 8, 88, 9, 11, 12]
    assert store.images[0, 0, 0].tolist() == [20 + band for band in wanted]
    assert store.images[3, 63, 63].tolist() == [1100 + band for band in wanted]


@pytest.mark.parametrize(
    "bands", [np.ones((12, 8, 8), np.uint16), np.ones((13, 8, 8), np.uint8)], ids=["12", "uint8"]
)
def test_a_geotiff_of_other_bands_is_refused_by_name(tmp_path, write_band, bands):
    write_band(tmp_path / "Forest_1.tif", bands)
    with pytest.raises(DataError, match=r"Forest_1\.tif: expected 13 bands of uint16"):
        read_allbands(tmp_path / "Forest_1.tif")


def test_a_cut_geotiff_of_all_bands_is_refused_by_name(tmp_path, write_band):
    write_band(tmp_path / "Forest_1.tif", np.ones((13, 64, 64), np.uint16))
    cut(tmp_path / "Forest_1.tif", 0.5)
    with pytest.raises(DataError, match=r"Forest_1\.tif cannot be read"):
        read_allbands(tmp_path / "Forest_1.tif")


def placed(root, write_band, **profile):
    """One 13-band file a class, the centres on the 15th meridian and ten kilometres apart."""
    import rasterio

    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        place = rasterio.transform.from_origin(500_000 - 320, 5_000_320 + 10_000 * label, 10, 10)
        bands = np.ones((13, 64, 64), np.uint16)
        write_band(root / name / f"{name}_7.tif", bands, transform=place, **profile)


def test_places_of_eurosat_are_read_from_its_geotiffs(tmp_path, write_band, monkeypatch):
    placed(tmp_path / "tif", write_band)
    run_main(monkeypatch, coordinates, tmp_path / "tif", tmp_path / "places.csv")
    table = pd.read_csv(tmp_path / "places.csv")
    assert table["name"].tolist() == [f"{name}_7" for name in CLASSES]
    np.testing.assert_allclose(table["longitude"], 15, atol=1e-5)
    # northing 5,000,000 m is 45.1535° on the central meridian; a degree is 111.1 km there, seen
    # through UTM's 0.9996
    latitude = 45.1535 + np.arange(10) * 10 / 0.9996 / 111.136
    np.testing.assert_allclose(table["latitude"], latitude, atol=2e-4)


def test_a_geotiff_without_a_place_is_refused_by_name(tmp_path, write_band):
    placed(tmp_path, write_band, crs=None)
    with pytest.raises(DataError, match=r"AnnualCrop_7\.tif has no coordinate system"):
        coordinates.locate(tmp_path)


# The split


def labelled(path, per_class=(20, 30, 10), prefix="p"):
    pixel = np.zeros((1, 1, 3), np.uint8)
    places = [(label, n) for label, count in enumerate(per_class) for n in range(count)]
    patches = [(f"{prefix}{label}_{n}", label, pixel) for label, n in places]
    return PatchStore.write(path, patches, {})


def rows(split):
    return split.train.tolist(), split.val.tolist(), split.test.tolist()


def test_the_split_is_80_10_10_of_every_class_and_takes_every_patch_once(tmp_path):
    store = labelled(tmp_path / "store")
    split = stratified_split(store)
    parts = split.train, split.val, split.test
    counts = [np.bincount(store.labels[part]).tolist() for part in parts]
    assert counts == [[16, 24, 8], [2, 3, 1], [2, 3, 1]]
    assert sorted(np.concatenate(parts)) == list(range(60))


def test_the_split_follows_from_the_seed_alone(tmp_path):
    first, second = labelled(tmp_path / "a"), labelled(tmp_path / "b")
    assert rows(stratified_split(first, seed=3)) == rows(stratified_split(second, seed=3))
    assert rows(stratified_split(first, seed=3)) != rows(stratified_split(first, seed=4))


def test_the_written_split_is_the_one_that_counts(tmp_path):
    store = labelled(tmp_path / "store")
    drawn = stratified_split(store, seed=5)
    file = store.path / "split_seed5.csv"
    written = pd.read_csv(file)
    assert np.flatnonzero(written["split"] == "val").tolist() == drawn.val.tolist()
    swapped = {"train": "train", "val": "test", "test": "val"}
    written["split"] = written["split"].map(swapped)
    written.to_csv(file, index=False)
    read = stratified_split(store, seed=5)
    assert rows(read) == (drawn.train.tolist(), drawn.test.tolist(), drawn.val.tolist())


def split_file(store, file, change=lambda lines: lines, end="\n", start=""):
    """A split of the store, two rows of training, one of validation, one of testing, and again."""
    parts = [("train", "train", "val", "test")[row % 4] for row in range(len(store))]
    lines = [f"{name},{part}" for name, part in zip(store.names, parts, strict=True)]
    file.write_text(start + end.join(["name,split", *change(lines)]) + end, encoding="utf-8")
    return parts


@pytest.mark.parametrize(("end", "start"), [("\n", ""), ("\r\n", ""), ("\n", "\ufeff")])
def test_a_split_file_is_read_with_any_line_ends_in_any_order(tmp_path, end, start):
    store = labelled(tmp_path / "store")
    parts = split_file(store, tmp_path / "split.csv", lambda lines: lines[::-1], end, start)
    split = read_split(store, tmp_path / "split.csv")
    for part in ("train", "val", "test"):
        expected = [row for row, each in enumerate(parts) if each == part]
        assert getattr(split, part).tolist() == expected


BAD_SPLITS = {
    "spaces": (lambda lines: [f"{line} " for line in lines], r"row 1 \(p0_0\): 'train ' is none"),
    "validation": (
        lambda lines: [line.replace("val", "validation") for line in lines],
        r"row 3 \(p0_2\): 'validation' is none of train, val, test",
    ),
    "unknown word": (lambda lines: [*lines[:4], "p0_4,trian", *lines[5:]], r"row 5.*'trian'"),
    "upper case": (lambda lines: ["p0_0,Train", *lines[1:]], r"row 1.*'Train'"),
    "no word": (lambda lines: ["p0_0,", *lines[1:]], r"row 1.*''"),
    "missing row": (lambda lines: lines[:-2], r"2 of 60 are missing, p2_8 first"),
    "twice": (lambda lines: [*lines, lines[0]], r"row 61 \(p0_0\).*second time"),
    "twice otherwise": (lambda lines: [*lines, "p0_0,test"], r"row 61 \(p0_0\).*second time"),
    "stranger": (lambda lines: [*lines, "q,train"], r"row 61 \(q\).*other patches"),
    "no test": (lambda lines: [line.replace("test", "val") for line in lines], "no row of 'test'"),
    "empty": (lambda lines: [], "60 of 60 are missing"),
    "more columns": (lambda lines: ["p0_0,b,train"], r"row 1 \(p0_0\): 'b' is none"),
}


@pytest.mark.filterwarnings("ignore:Length of header or names")
@pytest.mark.parametrize("where", ["given", "in the store"])
@pytest.mark.parametrize("kind", BAD_SPLITS)
def test_a_split_file_that_would_lose_rows_is_refused_with_the_row(tmp_path, kind, where):
    store, (change, message) = labelled(tmp_path / "store"), BAD_SPLITS[kind]
    file = tmp_path / "split.csv" if where == "given" else store.path / "split_seed0.csv"
    split_file(store, file, change)
    with pytest.raises(DataError, match=message) as caught:
        read_split(store, file) if where == "given" else stratified_split(store)
    assert file.name in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"n,s\na,train\n", None])
def test_a_split_file_that_is_none_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "split.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"split\.csv"):
        read_split(labelled(tmp_path / "store"), tmp_path / "split.csv")


def test_the_official_spatial_lists_of_eurosat_are_a_split(tmp_path, eurosat):
    store = eurosat_store(eurosat, tmp_path / "store")
    lists = [tmp_path / f"eurosat-spatial-{part}.txt" for part in ("train", "val", "test")]
    for n, file in zip((10, 2, 1), lists, strict=True):  # as torchgeo writes them
        file.write_text("".join(f"{name}_{n}.jpg\n" for name in reversed(CLASSES)))
    split = read_split(store, lists)
    for n, part in zip((10, 2, 1), (split.train, split.val, split.test), strict=True):
        assert store.names[part].tolist() == [f"{name}_{n}" for name in CLASSES]
    lists[1].write_text("River_1.jpg\nForest_2.jpg\n")
    with pytest.raises(DataError, match=r"test\.txt, line 2 \(River_1\.jpg\): .*second time"):
        read_split(store, lists)
    with pytest.raises(ValueError, match="three lists"):
        read_split(store, lists[:2])


def test_a_split_follows_from_the_seed_where_the_store_may_only_be_read(
    tmp_path, monkeypatch, capsys
):
    store, other = labelled(tmp_path / "store"), labelled(tmp_path / "other")

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", read_only)
        first, again = stratified_split(store), stratified_split(store)
    assert rows(first) == rows(again) == rows(stratified_split(other))
    assert "Read-only file system" in capsys.readouterr().out
    assert files_in(store.path) == STORE


@pytest.mark.parametrize(
    "other", [{"prefix": "q"}, {"per_class": (10, 30, 20)}, {"per_class": (20, 30, 11)}]
)
def test_a_split_of_other_patches_is_refused(tmp_path, other):
    store, stranger = labelled(tmp_path / "store"), labelled(tmp_path / "other", **other)
    stratified_split(stranger)
    (stranger.path / "split_seed0.csv").rename(store.path / "split_seed0.csv")
    with pytest.raises(DataError, match=r"split_seed0\.csv lists other patches than the store"):
        stratified_split(store)


def test_a_split_takes_patches_of_any_name(tmp_path):
    names, pixel = ["NA", "nan", "", "007", *map(str, range(16))], np.zeros((1, 1, 3), np.uint8)
    patches = [(name, row % 2, pixel) for row, name in enumerate(names)]
    split = stratified_split(PatchStore.write(tmp_path / "store", patches, {}))
    assert sum(map(len, rows(split))) == 20


def test_a_class_too_small_to_split_is_refused_before_anything_is_written(tmp_path):
    store = labelled(tmp_path / "store", (20, 9, 10))
    with pytest.raises(DataError, match="ten images of every class"):
        stratified_split(store)
    assert files_in(store.path) == STORE


def test_a_store_without_labels_cannot_be_split(tmp_path):
    store = PatchStore.write(tmp_path / "store", [("a", None, np.zeros((1, 1, 3), np.uint8))], {})
    with pytest.raises(DataError, match="has no labels"):
        stratified_split(store)


# UC Merced


def test_ucmerced_images_of_any_size_become_256_squares(tmp_path, ucmerced):
    store = class_folder_store(UCMERCED, STUDY_CLASSES, ucmerced, tmp_path / "store")
    assert store.images.shape == (6, 256, 256, 3) and store.images.dtype == np.uint8
    assert store.names.tolist() == [f"{name}{n:02}" for name in STUDY_CLASSES for n in (0, 1)]
    assert store.labels.tolist() == [0, 0, 1, 1, 2, 2]
    centres = (np.arange(256) + 0.5) / 256
    for row in (0, 2, 4):
        with Image.open(ucmerced / STUDY_CLASSES[row // 2] / f"{store.names[row]}.tif") as file:
            np.testing.assert_array_equal(store.images[row], file)  # not resampled without need
        # the ramp is stretched as a whole, not cropped, padded or turned
        down, across, still = np.moveaxis(store.images[row + 1].astype(float), -1, 0)
        column, line = (249 * centres - 0.5)[:, None], 251 * centres - 0.5
        np.testing.assert_allclose(down, np.broadcast_to(column, (256, 256)), atol=1)
        np.testing.assert_allclose(across, np.broadcast_to(line, (256, 256)), atol=1)
        assert (still == 99).all()


def test_ucmerced_takes_the_classes_asked_for(tmp_path, ucmerced):
    store = class_folder_store(UCMERCED, ("tenniscourt", "airplane"), ucmerced, tmp_path / "store")
    assert store.names.tolist() == ["tenniscourt00", "tenniscourt01", "airplane00", "airplane01"]
    assert store.labels.tolist() == [0, 0, 1, 1]


def test_a_missing_ucmerced_class_is_named(tmp_path, ucmerced):
    (ucmerced / "airplane").rename(ucmerced / "aeroplane")
    with pytest.raises(DataError, match="airplane is missing"):
        class_folder_store(UCMERCED, STUDY_CLASSES, ucmerced, tmp_path / "store")


def test_ucmerced_somewhere_else_is_named(tmp_path):
    with pytest.raises(DataError, match=r"UC Merced not found: no folder .*Images"):
        class_folder_store(UCMERCED, STUDY_CLASSES, tmp_path / "Images", tmp_path / "store")


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("keep", [0, 6, 0.5, 0.99], ids="{}".format)
def test_a_cut_tiff_is_refused_by_name(tmp_path, ucmerced, keep):
    cut(ucmerced / "storagetanks" / "storagetanks01.tif", keep)
    with pytest.raises(DataError, match=r"storagetanks01\.tif cannot be read"):
        class_folder_store(UCMERCED, STUDY_CLASSES, ucmerced, tmp_path / "store")
    assert not (tmp_path / "store").exists()
