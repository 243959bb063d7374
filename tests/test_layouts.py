"""Data sets as people have them: every layout gives the right store, or a refusal that says why."""

import errno
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import killable
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.data.decoding import read_bands, read_image
from src.data.images import (
    CLASSES,
    EUROSAT_COUNTS,
    STUDY_CLASSES,
    UCMERCED,
    class_folder_store,
    eurosat_allbands_store,
    eurosat_store,
    image_folder_store,
)
from src.data.store import PatchStore
from src.errors import DataError

NUMBERS = (1, 2, 10)


def picture(seed, size=8, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels), dtype=np.uint8)


def write(folder, classes=CLASSES, suffix=".png", size=8):
    """Noise in `folder/<class>/<class>_<n><suffix>`; suffix may be a function of n."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in NUMBERS:
            ending = suffix(n) if callable(suffix) else suffix
            file = folder / name / f"{name}_{n}{ending}"
            Image.fromarray(picture(100 * label + n, size)).save(file)
    return folder


def junk(folder):
    """What operating systems, notebooks and tables leave beside and in class folders."""
    for inner in (folder, *(path for path in list(folder.iterdir()) if path.is_dir())):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._Forest_1.png", "notes.csv"):
            (inner / name).write_bytes(b"\0\5\26\7 no image")
        (inner / ".ipynb_checkpoints").mkdir()
        shutil.copy(next(folder.rglob("*_1.png")), inner / ".ipynb_checkpoints/Forest_99.png")
    (folder / "__MACOSX/Forest").mkdir(parents=True)
    return folder


def contents(store):
    return (store.path / "images.npy").read_bytes(), (store.path / "index.csv").read_bytes()


def mixed(n):
    return {1: ".PNG", 2: ".png", 10: ".Png"}[n]


def in_deep(root):
    return write(root / "archive/EuroSAT_RGB").parents[1]


def kaggle(root):
    write(root / "EuroSAT")
    for name in ("train.csv", "test.csv", "validation.csv", "label_map.json"):
        (root / "EuroSAT" / name).write_text("Filename,Label,ClassName\n")
    (root / "EuroSATallBands/Forest").mkdir(parents=True)
    (root / "EuroSATallBands/Forest/Forest_1.tif").write_bytes(b"of other bands")
    return root


def linked(root):
    write(root / "elsewhere")
    (root / "data").mkdir()
    (root / "data/2750").symlink_to(root / "elsewhere")
    return root / "data"


EUROSATS = {
    "2750": lambda root: write(root / "2750"),
    "around 2750": lambda root: write(root / "2750").parent,
    "Zenodo": lambda root: write(root / "EuroSAT_RGB"),
    "two folders deep": in_deep,
    "Kaggle": kaggle,
    "suffixes of mixed case": lambda root: write(root / "2750", suffix=mixed),
    "junk": lambda root: junk(write(root / "2750")),
    "a link": linked,
}


@pytest.mark.parametrize("layout", EUROSATS)
def test_every_layout_of_eurosat_gives_the_same_store_to_the_byte(tmp_path, layout, capsys):
    store = eurosat_store(EUROSATS[layout](tmp_path / "data"), tmp_path / "store")
    assert store.names.tolist() == [f"{name}_{n}" for name in CLASSES for n in NUMBERS]
    assert store.labels.tolist() == [label for label in range(10) for _ in NUMBERS]
    for row, (label, n) in enumerate((label, n) for label in range(10) for n in NUMBERS):
        np.testing.assert_array_equal(store.images[row], picture(100 * label + n))
    told = capsys.readouterr().out
    assert "30 images of 10 classes" in told
    assert "officially 27,000: AnnualCrop 3 of 3,000" in told


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".Jpeg"])
def test_jpegs_of_any_suffix_are_read(tmp_path, suffix):
    root = write(tmp_path / "2750", suffix=suffix)
    store = eurosat_store(root, tmp_path / "store")
    with Image.open(root / f"River/River_2{suffix}") as image:
        row = store.names.tolist().index("River_2")
        np.testing.assert_array_equal(store.images[row], image)


@pytest.mark.parametrize("folder", ["Images", "UCMerced_LandUse", "outer/UCMerced_LandUse/Images"])
@pytest.mark.parametrize("suffix", [".tif", ".TIF", ".tiff", ".png"])
def test_every_layout_of_ucmerced_gives_the_same_store(tmp_path, folder, suffix):
    classes = (*STUDY_CLASSES, "river")  # which is not asked for
    write(tmp_path / "data" / folder, classes, suffix, 256)
    store = class_folder_store(UCMERCED, STUDY_CLASSES, tmp_path / "data", tmp_path / "store")
    assert store.names.tolist() == [f"{name}_{n}" for name in STUDY_CLASSES for n in NUMBERS]
    for row, (label, n) in enumerate((label, n) for label in range(3) for n in NUMBERS):
        np.testing.assert_array_equal(store.images[row], picture(100 * label + n, 256))


@pytest.mark.parametrize("folder", ["EuroSAT_MS", "ds/images/x/tif", "EuroSATallBands"])
def test_thirteen_bands_are_found_beside_the_jpegs(tmp_path, write_band, folder):
    write(tmp_path / "data/2750")
    for label, name in enumerate(CLASSES):
        (tmp_path / "data" / folder / name).mkdir(parents=True)
        bands = np.full((13, 8, 8), label, np.uint16)
        write_band(tmp_path / "data" / folder / name / f"{name}_1.tif", bands)
    store = eurosat_allbands_store(tmp_path / "data", tmp_path / "all")
    assert store.images[:, 0, 0, 0].tolist() == store.labels.tolist() == list(range(10))
    assert len(eurosat_store(tmp_path / "data", tmp_path / "rgb")) == 30


def remove(root, pattern):
    for path in root.glob(pattern):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return root


def change(root, name, act):
    act(root / name)
    return root


def zipped(root):
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        archive.write(root / "Forest/Forest_1.png", "2750/Forest/Forest_1.png")
    return root.with_suffix(".zip")


def moved_to_zip(root):
    zipped(root)
    shutil.rmtree(root)
    return root.parent


REFUSED = {
    "no folder": (lambda root: root / "nowhere", r"EuroSAT not found: no folder .*SETUP.*demo"),
    "a zip": (zipped, r"2750\.zip is a file.*unpack it"),
    "a folder of a zip": (moved_to_zip, r"holds 2750\.zip, not unpacked"),
    "empty folder": (lambda root: remove(root, "*"), "holds no EuroSAT.*it is empty"),
    "other classes": (
        lambda root: write(remove(root, "*"), ("cat", "dog")),
        r"holds no EuroSAT.*it holds cat, dog.*src\.data\.images",
    ),
    "twice": (
        lambda root: write(root.parent / "EuroSAT_RGB").parent,
        r"holds EuroSAT twice, .*2750 and .*EuroSAT_RGB|twice, .*RGB and .*2750",
    ),
    "class missing": (lambda root: remove(root, "River"), r"River is missing.*'Residential'"),
    "class in small letters": (
        lambda root: change(root, "River", lambda f: f.rename(root / "river")),
        r"River is missing.*'river'",
    ),
    "class empty": (lambda root: remove(root, "River/*"), "River is empty.*it is empty"),
    "class of tables": (
        lambda root: change(remove(root, "River/*"), "River/a.csv", lambda f: f.write_bytes(b"")),
        r"River is empty: expected images.*it holds a\.csv",
    ),
    "a stranger": (
        lambda root: write(root, ("Desert",)),
        r"not EuroSAT classes: \['Desert'\].*src\.data\.images",
    ),
    "folder in a class": (
        lambda root: change(root, "River/more", Path.mkdir),
        "River holds folders",
    ),
    "one name twice": (
        lambda root: change(
            root, "River/River_1.png", lambda f: shutil.copy(f, f.with_suffix(".JPG"))
        ),
        r"River_1\.(png and|JPG and) River_1\.(JPG|png) have one name",
    ),
    "another kind beside": (
        lambda root: change(root, "River/River_3.bmp", lambda f: f.write_bytes(b"BM")),
        r"another kind.*River_3\.bmp",
    ),
    "13 bands": (
        lambda root: write(remove(root, "*"), suffix=".tif"),
        r"AnnualCrop is empty of what EuroSAT needs.*it holds AnnualCrop_1\.tif",
    ),
    "a link to nothing": (
        lambda root: change(root, "River/River_3.png", lambda f: f.symlink_to("gone")),
        r"River_3\.png cannot be read",
    ),
    "odd name": (
        lambda root: change(root, "River/River_1.png", lambda f: f.rename(root / "River/a\nb.png")),
        "characters",
    ),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_what_is_no_eurosat_is_refused_in_words_that_help(tmp_path, layout):
    make, message = REFUSED[layout]
    with pytest.raises(DataError, match=message):
        eurosat_store(make(write(tmp_path / "data/2750")), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_mistyped_class_is_answered_by_those_there_are(tmp_path):
    write(tmp_path / "Images", STUDY_CLASSES, ".tif")
    message = r"storagetanks.*tenniscourt|it holds airplane, storage"
    for wrong in (("airplane", "storagetank"), ("aeroplane",)):
        with pytest.raises(DataError, match=message):
            class_folder_store(UCMERCED, wrong, tmp_path / "Images", tmp_path / "store")


# A store and the folder that it was built from


def more(root):
    Image.fromarray(picture(999)).save(root / "River/River_3.png")


def fewer(root):
    (root / "River/River_2.png").unlink()


def renamed(root):
    (root / "River/River_2.png").rename(root / "River/River_3.png")


def exchanged(root):
    Image.new("RGB", (8, 8)).save(root / "River/River_2.png")


def moved(root):
    (root / "River/River_2.png").rename(root / "Forest/River_2.png")


def test_a_folder_mended_after_a_partial_build_gives_the_whole_store(tmp_path, capsys):
    whole = eurosat_store(write(tmp_path / "whole"), tmp_path / "stores/whole")
    root = write(tmp_path / "2750")
    for pattern in ("*/*_2.png", "Forest/*_1.png"):
        remove(root, pattern)
    assert len(eurosat_store(root, tmp_path / "store")) == 19
    write(root)
    store = eurosat_store(root, tmp_path / "store")
    assert "lacks 11 images" in capsys.readouterr().out
    assert contents(store) == contents(whole) and store.provenance == whole.provenance
    assert not list(tmp_path.glob("store.*"))


@pytest.mark.parametrize("changed", [fewer, renamed, exchanged, moved])
def test_a_changed_folder_is_never_answered_with_the_old_store(tmp_path, changed):
    root = write(tmp_path / "2750")
    eurosat_store(root, tmp_path / "store")
    changed(root)
    with pytest.raises(DataError, match=r"2750 has changed since .*store was built.*Delete"):
        eurosat_store(root, tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    assert len(eurosat_store(root, tmp_path / "store")) == 30 - (changed is fewer)


@pytest.mark.parametrize("changed", [more, fewer, renamed, exchanged])
def test_a_build_that_was_stopped_begins_anew_in_a_changed_folder(tmp_path, changed):
    root = write(tmp_path / "2750")
    (root / "SeaLake/SeaLake_10.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"SeaLake_10\.png cannot be read"):
        eurosat_store(root, tmp_path / "store")
    write(root, ("SeaLake",))
    changed(root)
    expected = eurosat_store(root, tmp_path / "undisturbed")
    assert contents(eurosat_store(root, tmp_path / "store")) == contents(expected)


def test_a_store_without_its_folder_is_opened_as_it_is(tmp_path, capsys):
    root = write(tmp_path / "2750")
    eurosat_store(root, tmp_path / "store")
    shutil.rmtree(root)
    assert len(eurosat_store(root, tmp_path / "store")) == 30
    assert "no folder" in capsys.readouterr().out


@pytest.mark.parametrize("changed", [None, fewer])
def test_a_store_of_a_former_version_is_compared_by_its_names(tmp_path, changed):
    root = write(tmp_path / "2750")
    store = eurosat_store(root, tmp_path / "new")
    patches = zip(store.names, store.labels.tolist(), store.images, strict=True)
    old = {"kind": "eurosat-rgb", "source": str(root), "classes": list(CLASSES)}
    PatchStore.write(tmp_path / "old", patches, old)
    (tmp_path / "old/SHA256SUMS").unlink()
    if changed:
        changed(root)
        with pytest.raises(DataError, match="has changed since"):
            eurosat_store(root, tmp_path / "old")
    else:
        assert contents(eurosat_store(root, tmp_path / "old")) == contents(store)


def test_two_first_builds_of_one_store_make_one(tmp_path):
    root = write(tmp_path / "2750")
    processes = [killable.start(eurosat_store, root, tmp_path / "store") for _ in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(PatchStore.open(tmp_path / "store")) == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2750", "store"]


def test_the_official_number_is_told_as_such(tmp_path, capsys, monkeypatch):
    for name in CLASSES:
        monkeypatch.setitem(EUROSAT_COUNTS, name, 3)
    eurosat_store(write(tmp_path / "2750"), tmp_path / "store")
    assert "30 images of 10 classes" in (told := capsys.readouterr().out)
    assert "(the official number)" in told
    monkeypatch.setitem(EUROSAT_COUNTS, "River", 4)  # one is lacking
    eurosat_store(tmp_path / "2750", tmp_path / "store")
    assert "officially 31: River 3 of 4" in capsys.readouterr().out


# One image


def as_16_bit_png(file):
    """Pillow reads such files cut to 8 bits, and writes none."""
    import rasterio

    with rasterio.open(
        file, "w", driver="PNG", width=8, height=8, count=3, dtype="uint16"
    ) as image:
        image.write(np.full((3, 8, 8), 4242, np.uint16))


def as_16_bit_tiff(file):
    import rasterio

    profile = {"width": 8, "height": 8, "count": 3, "dtype": "uint16", "photometric": "RGB"}
    with rasterio.open(file, "w", driver="GTiff", **profile) as image:
        image.write(np.full((3, 8, 8), 4242, np.uint16))


def as_four_bands(file):
    import rasterio

    profile = {"width": 8, "height": 8, "count": 4, "dtype": "uint16"}
    with rasterio.open(file, "w", driver="GTiff", **profile) as image:
        image.write(np.ones((4, 8, 8), np.uint16))


def as_bomb(file):
    """A PNG of 400 bytes that claims 20,000 × 20,000 pixels."""
    Image.new("RGB", (8, 8)).save(file, "PNG")
    data = bytearray(file.read_bytes())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    file.write_bytes(data)


def as_tiff_bomb(file):
    import rasterio

    profile = {"width": 20_000, "height": 20_000, "count": 3, "dtype": "uint8"}
    with rasterio.open(file, "w", driver="GTiff", sparse_ok=True, **profile):
        pass


def saved(mode, **options):
    return lambda file: Image.new(mode, (8, 8)).save(file, **options)


def bytes_of(content):
    return lambda file: file.write_bytes(content)


UNREADABLE = {
    "16-bit PNG": ("a.png", as_16_bit_png, "16 bits a channel"),
    "16-bit PNG named .jpg": ("a.jpg", as_16_bit_png, "16 bits a channel"),
    "16-bit TIFF": ("a.tif", as_16_bit_tiff, "16 bits|3 bands of uint16; 8-bit RGB is taken"),
    "four bands": ("a.tif", as_four_bands, "4 bands of uint16; 8-bit RGB is taken.*--bands"),
    "grey": ("a.jpg", saved("L"), "mode L"),
    "CMYK": ("a.jpg", saved("CMYK"), "mode CMYK"),
    "palette": ("a.png", saved("P"), "mode P"),
    "with alpha": ("a.png", saved("RGBA"), "mode RGBA"),
    "16-bit grey": ("a.png", saved("I;16"), "got (mode I|16 bits)"),
    "bomb": ("a.png", as_bomb, "far too large|claims"),
    "bomb named .jpg": ("a.jpg", as_bomb, "far too large|claims"),
    "TIFF bomb": ("a.tif", as_tiff_bomb, "far too large|claims"),
    "nothing": ("a.png", bytes_of(b""), "0 bytes"),
    "LFS": ("a.png", bytes_of(b"version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
    "page": ("a.jpg", bytes_of(b"<!DOCTYPE html><html>"), "a web page"),
    "AppleDouble": ("._a.jpg", bytes_of(b"\0\5\26\7\0\2\0\0"), "macOS"),
    "text": ("a.png", bytes_of(b"hello"), "cannot be read"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_image_that_cannot_be_read_whole_says_what_it_is(tmp_path, kind):
    name, make, message = UNREADABLE[kind]
    make(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        read_image(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_on_its_side_is_turned_upright(tmp_path, suffix, orientation):
    from PIL import ImageOps

    image = Image.fromarray(np.kron(picture(3, 4), np.ones((8, 16, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    with Image.open(tmp_path / f"a.{suffix}") as lying:
        expected = np.asarray(ImageOps.exif_transpose(lying))
    read = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read, expected)
    assert read.shape == ((32, 64, 3) if orientation < 5 else (64, 32, 3))


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_of_an_image_give_the_image_or_one_error(tmp_path, write_band, seed):
    rng = np.random.default_rng(seed)
    file = tmp_path / ("a.tif" if seed % 2 else "b.png")
    if seed % 2:
        write_band(file, picture(0, 32).transpose(2, 0, 1), compress="deflate")
    else:
        Image.fromarray(picture(0, 32)).save(file)
    data = bytearray(file.read_bytes())
    data[rng.integers(len(data) // (1 if seed % 4 < 2 else 10))] ^= 1 << rng.integers(8)
    file.write_bytes(data)
    for read in (read_image, lambda file: read_bands(file, (1, 2, 3))):
        try:
            assert read(file).shape[-1] == 3
        except DataError as error:
            assert file.name in str(error)


# Any folder of images


def test_any_class_folders_become_a_store_of_the_command(tmp_path, run_module):
    junk(write(tmp_path / "sets", ("dog", "cat")))
    for name in ("cat", "dog"):  # JPEG beside PNG, of another size
        Image.new("RGB", (20, 10)).save(tmp_path / f"sets/{name}/{name}_3.jpeg")
    done = run_module("src.data.images", tmp_path / "sets", tmp_path / "store", "--size", 8)
    assert done.returncode == 0, done.stderr
    assert "sets: 8 images of 2 classes" in done.stdout
    store = PatchStore.open(tmp_path / "store")
    assert store.meta["classes"] == ["cat", "dog"] and store.images.shape == (8, 8, 8, 3)
    assert store.labels.tolist() == [0] * 4 + [1] * 4
    assert store.names.tolist() == [f"{name}_{n}" for name in ("cat", "dog") for n in (1, 2, 3, 10)]
    np.testing.assert_array_equal(store.images[0], picture(101))
    assert contents(image_folder_store(tmp_path / "sets", tmp_path / "again", size=8)) == (
        contents(store)
    )


def test_images_of_other_sizes_are_refused_without_a_size(tmp_path, run_module, one_error_line):
    write(tmp_path / "sets", ("cat", "dog"))
    Image.new("RGB", (20, 10)).save(tmp_path / "sets/cat/cat_3.png")
    line = one_error_line(run_module("src.data.images", tmp_path / "sets", tmp_path / "store"))
    assert "cat_3.png: expected (8, 8, 3) uint8, got (10, 20, 3)" in line


def test_a_flat_folder_is_unlabelled_and_few_damaged_images_are_listed(tmp_path):
    (tmp_path / "flat").mkdir()
    for n in range(12):
        Image.fromarray(picture(n)).save(tmp_path / f"flat/{n}.png")
    (tmp_path / "flat/0.png").write_bytes(b"damaged")  # not the model of all others
    store = image_folder_store(tmp_path / "flat", tmp_path / "store", max_unreadable=0.1)
    assert store.labels is None and "classes" not in store.meta
    assert store.names.tolist() == [str(n) for n in range(1, 12)]
    assert pd.read_csv(tmp_path / "store-unreadable.csv", dtype=str)["name"].tolist() == ["0"]
    assert len(image_folder_store(tmp_path / "flat", tmp_path / "store")) == 11
    Image.fromarray(picture(0)).save(tmp_path / "flat/0.png")  # mended
    assert len(image_folder_store(tmp_path / "flat", tmp_path / "store")) == 12
    assert not (tmp_path / "store-unreadable.csv").exists()


def test_eurosat_is_one_call_of_the_same_mechanism(tmp_path):
    root = write(tmp_path / "outer/2750")
    known, own = eurosat_store(root, tmp_path / "known"), tmp_path / "own"
    for folder in (root, tmp_path / "outer", tmp_path / "outer"):
        assert contents(image_folder_store(folder, own)) == contents(known)
    assert PatchStore.open(own).meta["classes"] == list(CLASSES)


def test_a_split_of_folders_is_no_set_of_classes(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / "set" / part, ("a", "b"))
    with pytest.raises(DataError, match=r"holds folders .*whose folders are the classes"):
        image_folder_store(tmp_path / "set", tmp_path / "store")


def test_names_that_classes_share_get_the_class_in_front(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "sets" / name).mkdir(parents=True)
        for n in (1, 2):
            Image.fromarray(picture(n)).save(tmp_path / f"sets/{name}/{n}.png")
    store = image_folder_store(tmp_path / "sets", tmp_path / "store")
    assert store.names.tolist() == ["a/1", "a/2", "b/1", "b/2"]


def test_bands_of_geotiffs_are_chosen_by_number_and_kept(tmp_path, write_band):
    (tmp_path / "flat").mkdir()
    for n in range(3):
        values = 1000 * n + np.arange(4, dtype=np.uint16)
        bands = np.broadcast_to(values[:, None, None], (4, 8, 8))
        write_band(tmp_path / f"flat/{n}.tif", np.ascontiguousarray(bands))
    store = image_folder_store(tmp_path / "flat", tmp_path / "store", bands=(4, 1, 2, 3))
    assert store.images.dtype == np.uint16 and store.images[2, 0, 0].tolist() == [
        2003,
        2000,
        2001,
        2002,
    ]
    for bands, message in (((5,), "expected a band 5"), ((), "16 bits|cannot be read|mode")):
        with pytest.raises(DataError, match=message):
            image_folder_store(tmp_path / "flat", tmp_path / "other", bands=bands)
    with pytest.raises(DataError, match=r"bands was \[4, 1, 2, 3\], now \[1\]"):
        image_folder_store(tmp_path / "flat", tmp_path / "store", bands=(1,))


WRONG_FOLDERS = {
    "empty": (lambda root: root.mkdir(), "holds no images.*it is empty"),
    "a file": (lambda root: root.write_bytes(b"PK"), "is a file.*unpack"),
    "missing": (lambda root: None, "no folder"),
    "tables": (lambda root: (root / "a").mkdir(parents=True), "a is empty: expected images"),
    "both": (
        lambda root: Image.new("RGB", (8, 8)).save(write(root, ("a", "b")) / "c.png"),
        "beside folders",
    ),
    "another kind": (
        lambda root: (write(root, ("a",)) / "a/b.webp").write_bytes(b"RIFF"),
        r"another kind.*b\.webp",
    ),
}


@pytest.mark.parametrize("kind", WRONG_FOLDERS)
def test_a_folder_that_is_no_set_says_what_it_holds(tmp_path, kind):
    make, message = WRONG_FOLDERS[kind]
    make(tmp_path / "set")
    with pytest.raises(DataError, match=message):
        image_folder_store(tmp_path / "set", tmp_path / "store")


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"size": 8, "bands": (1,)}, {"bands": (0,)}, {"bands": (1, 1)}]
)
def test_settings_that_make_no_sense_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"size|bands"):
        image_folder_store(write(tmp_path / "set", ("a",)), tmp_path / "store", **wrong)


def test_a_full_disk_says_so_and_the_next_start_goes_on(tmp_path, monkeypatch):
    root = write(tmp_path / "2750")
    pwrite = os.pwrite

    def full(file, data, at):
        if at > 15 * 192:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, data, at)

    with monkeypatch.context() as patch, pytest.raises(DataError, match="Make room on that disk"):
        patch.setattr(os, "pwrite", full)
        eurosat_store(root, tmp_path / "store")
    expected = eurosat_store(root, tmp_path / "undisturbed")
    assert contents(eurosat_store(root, tmp_path / "store")) == contents(expected)
