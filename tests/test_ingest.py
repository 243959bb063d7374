"""BigEarthNet in all its forms into one store: one result, after any kill, and nothing made up."""

import bz2
import contextlib
import errno
import fcntl
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import killable
import numpy as np
import pandas as pd
import pytest
import rasterio
import zstandard

from src.data import ingest
from src.data.bands import ALL_BANDS, RGB, as_rgb
from src.data.bigearthnet import Selection, bigearthnet_store
from src.data.bigearthnet.patch import PIXELS, read_patch
from src.data.bigearthnet.selection import OFFICIAL, account, read_list
from src.data.bigearthnet.sources import detect
from src.data.building import Plan
from src.data.decoding import read_bands
from src.data.known import open_data
from src.data.store import PatchStore
from src.errors import DataError


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Waiting for the disk is for power cuts: a kill does not need it, and it can take seconds."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def names_of(root):
    return sorted(path.name for path in Path(root).iterdir())


def renamed(patch, root, name, suffixes=None):
    """A real patch under another name (hard links: nothing is copied), whole or some of its files.

    Only to be read: a change would be one of the real patch too.
    """
    (root / name).mkdir(parents=True)
    for file in patch.iterdir():
        suffix = file.name.removeprefix(f"{patch.name}_")
        if suffixes is None or suffix in suffixes:
            os.link(file, root / name / f"{name}_{suffix}")
    return root / name


def in_tiles(flat, root):
    """The same patches as v2 has them: `<tile>/<patch>/`."""
    for patch in flat.iterdir():
        shutil.copytree(patch, root / patch.name.rsplit("_", 2)[0] / patch.name)
    return root


def packed(root, archive):
    """A folder as .tar, .tar.gz or .tar.zst, its patches in an order that is not the alphabet's."""
    plain = archive.with_name("plain.tar")
    with tarfile.open(plain, "w") as tar:
        tar.add(root, root.name, recursive=False)
        for folder in sorted(root.iterdir(), key=lambda path: path.name[::-1]):
            tar.add(folder, f"{root.name}/{folder.name}")
    if archive.name.endswith(".zst"):
        archive.write_bytes(zstandard.compress(plain.read_bytes()))
    elif archive.name.endswith(".gz"):
        with tarfile.open(archive, "w:gz") as packed_tar, tarfile.open(plain) as tar:
            for member in tar:
                packed_tar.addfile(member, tar.extractfile(member) if member.isfile() else None)
    else:
        plain.rename(archive)
    return archive


def contents(store):
    """Every byte of a store but for the place it was made from."""
    meta = {key: value for key, value in store.meta.items() if key != "source"}
    return meta, (store.path / "images.npy").read_bytes(), (store.path / "index.csv").read_bytes()


# Sources


@pytest.fixture(scope="module")
def forms(real_patches, real_archive, tmp_path_factory):
    """The six real patches in every form there is."""
    folder = tmp_path_factory.mktemp("forms")
    tiles = in_tiles(real_patches, folder / "BigEarthNet-S2")
    return {
        "v1 folders": real_patches,
        "v2 folders": tiles,
        "tar": packed(real_patches, folder / "v1.tar"),
        "v1 tar.gz": packed(real_patches, folder / "v1.tar.gz"),
        "v2 tar.zst": packed(tiles, folder / "v2.tar.zst"),
        "tar.bz2": real_archive,
    }


@pytest.mark.parametrize("bands", ["rgb", "all"])
@pytest.mark.parametrize(
    "form", ["v1 folders", "v2 folders", "tar", "v1 tar.gz", "v2 tar.zst", "tar.bz2"]
)
def test_every_source_gives_the_same_bytes(tmp_path, real_patches, forms, form, bands):
    chosen = names_of(real_patches)[::-1][:5]  # an order of its own, and not all
    (tmp_path / "list.csv").write_text("\n".join(chosen))
    selection = Selection(tmp_path / "list.csv")
    store = bigearthnet_store(forms[form], tmp_path / "store", selection, bands=bands)
    assert store.names.tolist() == chosen
    expected = [
        plainly_read(real_patches / name, RGB if bands == "rgb" else ALL_BANDS) for name in chosen
    ]
    if bands == "rgb":
        expected = [(image / 2750.0 * 255).clip(0, 255).astype(np.uint8) for image in expected]
    np.testing.assert_array_equal(store.images, expected)
    reference = tmp_path / "reference"
    reference = bigearthnet_store(forms["v1 folders"], reference, selection, bands=bands)
    assert contents(store) == contents(reference)


def plainly_read(folder, bands):
    """The obvious way: GDAL, band after band, enlarged to 120 pixels by GDAL's nearest."""
    layers = []
    for band in bands:
        with rasterio.open(folder / f"{folder.name}_{band}.tif") as file:
            layers.append(file.read(1, out_shape=(120, 120)))
    return np.stack(layers, -1)


@pytest.mark.parametrize("form", ["v1 folders", "v2 tar.zst"])
def test_without_a_list_all_patches_come_by_name(tmp_path, real_patches, forms, form):
    store = bigearthnet_store(forms[form], tmp_path / "store")
    assert store.names.tolist() == names_of(real_patches)


@pytest.mark.parametrize("form", ["v2 folders", "v2 tar.zst"])
def test_the_metadata_of_v2_chooses_split_and_excludes_what_it_flags(
    tmp_path, real_patches, forms, form, capsys
):
    names = names_of(real_patches)
    table = pd.DataFrame(
        {
            "patch_id": names,
            "labels": [["Pastures"]] * 6,
            "split": ["train"] * 4 + ["validation", "test"],
            "country": ["Ireland", "Portugal", "Ireland", "Ireland", "Finland", "Finland"],
            "contains_seasonal_snow": [False, False, True, False, False, False],
            "contains_cloud_or_shadow": [False] * 6,
        }
    )
    table.iloc[::-1].to_parquet(tmp_path / "metadata.parquet")  # its order is the store's

    def build(split, **selection):
        selection = Selection(split, tmp_path / "metadata.parquet", **selection)
        return bigearthnet_store(forms[form], tmp_path / f"{split}{selection.countries}", selection)

    store = build("train")
    assert store.names.tolist() == [names[3], names[1], names[0]]
    assert store.meta["counts"] == {
        "listed": 4,
        "contains_seasonal_snow": 1,
        "contains_cloud_or_shadow": 0,
        "absent": 0,
        "unreadable": 0,
    }
    account = "3 patches stored = 4 listed − 1 contains_seasonal_snow; officially 269,695"
    assert account in capsys.readouterr().out
    assert build("val").names.tolist() == [names[4]]
    irish = build("train", countries=["Ireland"])
    assert irish.names.tolist() == [names[3], names[0]]
    assert irish.meta["counts"]["other countries"] == 1
    with pytest.raises(DataError, match=r"no split 'trian'.*'test', 'train', 'validation'"):
        build("trian")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"metadata .* is missing\. SETUP\.md"),
        (b"PAR1 and then nothing", r"metadata .* cannot be read .*download it again"),
        (b"a,b\n1,2\n", "no column 'patch_id' in"),
    ],
)
def test_metadata_that_is_missing_damaged_or_of_something_else_is_refused(
    tmp_path, real_patches, content, message
):
    file = tmp_path / ("metadata.csv" if content and b"," in content else "metadata.parquet")
    if content:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        bigearthnet_store(real_patches, tmp_path / "store", Selection("train", file))


def test_the_source_is_detected_shown_in_one_line_and_overridable(tmp_path, forms, capsys):
    shown = {}
    for form, root in forms.items():
        bigearthnet_store(root, tmp_path / form)
        lines = capsys.readouterr().out.splitlines()
        (shown[form],) = [line for line in lines if line.startswith("BigEarthNet from")]
    assert "BigEarthNet-S2-Example (patch folders)" in shown["v1 folders"]
    assert "BigEarthNet-S2 (patch folders in tile folders)" in shown["v2 folders"]
    for form in ("tar", "v1 tar.gz", "v2 tar.zst"):
        assert "archive, streamed without extracting" in shown[form]
    selection = all_listed(tmp_path, forms)
    with pytest.raises(DataError, match=r"6 of 6 patches unreadable.*is missing"):
        bigearthnet_store(forms["v1 folders"], tmp_path / "wrong", selection, layout="tiles")
    (tmp_path / "empty" / "x").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no patches: expected"):
        detect(tmp_path / "empty")


def all_listed(tmp_path, forms):
    (tmp_path / "list.csv").write_text("\n".join(names_of(forms["v1 folders"])))
    return Selection(tmp_path / "list.csv")


def test_an_archive_leaves_nothing_on_disk_but_the_store(tmp_path, forms):
    bigearthnet_store(forms["v1 tar.gz"], tmp_path / "stores/store")
    assert names_of(tmp_path / "stores") == ["store"]
    files = ["SHA256SUMS", "images.npy", "index.csv", "meta.json"]
    assert names_of(tmp_path / "stores/store") == files


@pytest.mark.parametrize("form", ["tar", "v1 tar.gz", "v2 tar.zst", "tar.bz2"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_cut_archive_is_refused_and_a_whole_one_continues(tmp_path, forms, form, keep):
    archive = tmp_path / forms[form].name
    archive.write_bytes(forms[form].read_bytes()[: int(keep * forms[form].stat().st_size)])
    selection = all_listed(tmp_path, forms)
    with pytest.raises(DataError, match=r"is damaged or cut off after .*checksum"):
        bigearthnet_store(archive, tmp_path / "store", selection)
    assert not (tmp_path / "store").exists()
    shutil.copy(forms[form], archive)
    store = bigearthnet_store(archive, tmp_path / "store", selection)
    assert contents(store) == contents(bigearthnet_store(archive, tmp_path / "again", selection))


# Selection


def test_lists_exclusions_months_and_fractions_are_counted(tmp_path, real_patches, capsys):
    names = names_of(real_patches)
    (tmp_path / "train.csv").write_text("".join(f"{name},S1A_x\n" for name in names))
    (tmp_path / "snow.csv").write_text(f"{names[0]}\n")
    pd.Series(names[1:2]).to_csv(tmp_path / "clouds.csv.bz2", index=False, header=False)
    lists = [tmp_path / "snow.csv", tmp_path / "clouds.csv.bz2"]

    def build(name, *args, **selection):
        return bigearthnet_store(real_patches, tmp_path / name, Selection(*args, **selection))

    store = build("clear", tmp_path / "train.csv", exclude=lists)
    assert store.names.tolist() == names[2:]
    account = (
        "4 patches stored = 6 listed − 2 on exclusion lists; officially 269,695, of which 269,689"
        " were not listed"
    )
    assert account in capsys.readouterr().out

    month = names[-1].split("_")[2][4:6]
    expected = [name for name in names if f"_2017{month}" in name or f"_2018{month}" in name]
    assert build("month", months=[int(month)]).names.tolist() == expected

    halves = [build(f"half{i}", fraction=0.5, seed=i // 2).names for i in range(4)]
    assert all(len(half) == 3 and list(half) == sorted(half) for half in halves)
    assert list(halves[0]) == list(halves[1]) != list(halves[2])
    with pytest.raises(DataError, match=r"no patches to read .*6 listed, 6 other months"):
        build("none", months=[13])


def test_countries_of_v1_come_from_the_table_of_bigearthnet_common(
    tmp_path, real_patches, real_archive
):
    file = real_archive.with_name("s1_s2_name_country_season.csv.bz2")
    table = pd.read_csv(file, nrows=6)  # to unpack the whole takes seconds
    table.to_csv(tmp_path / "countries.csv.bz2", index=False)
    for source, name in zip(names_of(real_patches), table["s2_name"], strict=True):
        renamed(real_patches / source, tmp_path / "patches", name)
    expected = table["s2_name"][table["country"] == "Finland"].tolist()
    selection = Selection(metadata=tmp_path / "countries.csv.bz2", countries=["Finland"])
    store = bigearthnet_store(tmp_path / "patches", tmp_path / "store", selection)
    assert store.names.tolist() == expected and 0 < len(expected) < 6
    with pytest.raises(DataError, match="no column 'country'"):
        selection = Selection(countries=["Ireland"])
        bigearthnet_store(real_patches, tmp_path / "other", selection)


def test_the_official_lists_have_the_official_counts(real_archive):
    lists = {
        name: read_list(real_archive.with_name(f"{name}.csv.bz2"))
        for name in (
            *("train", "val", "test"),
            "patches_with_seasonal_snow",
            "patches_with_cloud_and_shadow",
            "patches_with_no_19_class_targets",
        )
    }
    for split in ("train", "val", "test"):
        assert len(lists[split]) == OFFICIAL["v1"][split]
    assert pd.concat(lists.values()).nunique() == OFFICIAL["v1"][None]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"listed": 10, "absent": 0}, "10 patches stored = 10 listed (the official number)"),
        (
            {"listed": 9, "absent": 2, "unreadable": 1},
            "6 patches stored = 9 listed − 2 absent − 1 unreadable; officially 10, of which 1 were"
            " not listed",
        ),
        ({"listed": 10, "absent": 1}, "9 patches stored = 10 listed − 1 absent; officially 10"),
    ],
)
def test_the_account_explains_every_difference(counts, expected):
    assert account(counts, 10) == expected


# Bands


def test_twelve_bands_keep_their_numbers_and_are_repeated_to_10_m(real_patches):
    folder = real_patches / names_of(real_patches)[0]
    image = read_patch(folder, None, ALL_BANDS, None)
    assert image.shape == (120, 120, 12) and image.dtype == np.uint16
    for layer, band in enumerate(ALL_BANDS):
        with rasterio.open(folder / f"{folder.name}_{band}.tif") as file:
            assert file.width == PIXELS[band]
            np.testing.assert_array_equal(
                image[:: 120 // PIXELS[band], :: 120 // PIXELS[band], layer], file.read(1)
            )
    np.testing.assert_array_equal(as_rgb(image), read_patch(folder, None, RGB, 2750.0))


def test_percentiles_span_the_patch_and_keep_its_colours(real_patches):
    folder = real_patches / names_of(real_patches)[0]
    image, plain = read_patch(folder, None, RGB, "percentile"), plainly_read(folder, RGB)
    low, high = np.percentile(plain, (2, 98))
    expected = ((plain - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(image, expected)
    assert np.percentile(image, (1, 99)).tolist() == [0, 255]


def test_meta_names_bands_stretch_and_resampling(tmp_path, real_patches):
    rgb = bigearthnet_store(real_patches, tmp_path / "rgb", stretch="percentile").meta
    every = bigearthnet_store(real_patches, tmp_path / "all", bands="all").meta
    assert (rgb["kind"], rgb["bands"]) == ("bigearthnet-v1-rgb", list(RGB))
    assert (every["kind"], every["bands"]) == ("bigearthnet-v1-all", list(ALL_BANDS))
    assert rgb["stretch"] == "percentile" and every["resampling"] == "nearest"
    assert "stretch" not in every and every["shape"] == [6, 120, 120, 12]


@pytest.mark.parametrize("wrong", [{"stretch": 0}, {"stretch": "auto"}, {"bands": "nir"}])
def test_settings_that_make_no_sense_are_refused(tmp_path, real_patches, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        bigearthnet_store(real_patches, tmp_path / "store", **wrong)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
def test_a_fraction_that_makes_no_sense_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        Selection(fraction=fraction)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "deflate"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"nodata": 65535},
        {"endianness": "big"},
        {"predictor": 2, "compress": "lzw"},
    ],
)
def test_geotiffs_written_otherwise_are_read_too(tmp_path, write_patch, write_band, options):
    band = np.random.default_rng(0).integers(0, 3000, (120, 120), dtype=np.uint16)
    folder = write_patch(tmp_path, "S2A_x_1_2")
    write_band(folder / "S2A_x_1_2_B03.tif", band, **options)
    np.testing.assert_array_equal(read_patch(folder, None, ("B03",), None)[..., 0], band)


# Corruption


@pytest.fixture
def broken(tmp_path, real_patches, write_band):
    """Copies of real patches, each broken in its own way: folder, list, expected reasons."""
    root = tmp_path / "BigEarthNet-v1.0"
    sources = names_of(real_patches)
    reasons = {}

    def patch(kind, reason):
        name = f"S2A_MSIL2A_20170613T101031_{len(reasons)}_{kind.replace(' ', '')}"
        source = real_patches / sources[len(reasons) % 6]
        for file in source.iterdir():
            (root / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / name / file.name.replace(source.name, name))
        reasons[name] = reason and f"{name}{reason}"
        return root / name / f"{name}_B03.tif"

    patch("whole", None)
    file = patch("truncated", r"_B03\.tif cannot be read")
    file.write_bytes(file.read_bytes()[:20000])
    patch("zero bytes", r"_B03\.tif cannot be read \(0 bytes\)").write_bytes(b"")
    patch("zeros", r"_B03\.tif cannot be read").write_bytes(bytes(29192))
    write_band(
        patch("size", r"_B03\.tif: expected 1 band of 120×120, got 1 of 60×60"),
        np.ones((60, 60), np.uint16),
    )
    patch("missing band", r"_B03\.tif is missing").unlink()
    write_band(
        patch("dtype", r"_B03\.tif: expected uint16 .* got float32"),
        np.ones((120, 120), np.float32),
    )
    write_band(patch("two bands", r"_B03\.tif: expected 1 band"), np.ones((2, 120, 120), np.uint16))
    write_band(
        patch("nodata", r"_B03\.tif holds 14400 pixels of nodata"),
        np.zeros((120, 120), np.uint16),
        nodata=0,
    )
    file = patch("json", None)  # labels are not needed: read, and counted
    next(file.parent.glob("*.json")).write_text('{"labels": ["Past')
    shutil.rmtree(patch("absent", " is missing: listed, but").parent)
    patch("also whole", None)
    names = list(reasons)
    (tmp_path / "train.csv").write_text("\n".join([*names, names[0]]))  # the first a second time
    return root, tmp_path / "train.csv", reasons


@pytest.mark.parametrize(("form", "workers"), [("folders", 1), ("archive", 1), ("archive", 2)])
def test_every_kind_of_damage_is_reported_and_left_out(tmp_path, broken, form, workers):
    root, split, reasons = broken
    root = packed(root, tmp_path / "v1.tar.gz") if form == "archive" else root
    store = bigearthnet_store(
        root, tmp_path / "store", Selection(split), max_unreadable=1.0, workers=workers
    )
    report = pd.read_csv(tmp_path / "store-unreadable.csv")
    damaged = [name for name, reason in reasons.items() if reason]
    assert report["name"].tolist() == [*damaged, next(iter(reasons))]
    *messages, twice = report["reason"]
    for expected, message in zip(filter(None, reasons.values()), messages, strict=True):
        assert re.search(expected, message)
    assert "listed more than once" in twice
    whole = [name for name, reason in reasons.items() if not reason]
    assert store.names.tolist() == whole
    (broken[0] / whole[1] / f"{whole[1]}_labels_metadata.json").write_text("{}")
    expected = [read_patch(broken[0] / name, None, RGB, 2750.0) for name in whole]
    np.testing.assert_array_equal(store.images, expected)
    expected = {"listed": 13, "absent": 1, "unreadable": 9, "damaged labels": 1}
    assert store.meta["counts"] == expected


def test_a_patch_twice_in_an_archive_is_left_out(tmp_path, real_patches):
    names = names_of(real_patches)
    with tarfile.open(tmp_path / "v1.tar", "w") as tar:
        for name in [*names, names[2]]:
            tar.add(real_patches / name, f"v1/{name}")
        tar.add(real_patches / names[0], f"v1/{names[0]}")
    (tmp_path / "list.csv").write_text("\n".join([*names, "S2A_MSIL2A_20170613T101031_0_0"]))
    selection = Selection(tmp_path / "list.csv")
    store = bigearthnet_store(
        tmp_path / "v1.tar", tmp_path / "store", selection, max_unreadable=0.5
    )
    assert store.names.tolist() == [names[1], *names[3:]]
    report = pd.read_csv(tmp_path / "store-unreadable.csv").set_index("name")["reason"]
    assert all("v1.tar more than once" in report[name] for name in (names[0], names[2]))
    assert "nowhere in the archive" in report["S2A_MSIL2A_20170613T101031_0_0"]


def test_it_stops_before_reading_everything_when_the_data_is_bad(tmp_path, real_patches):
    many = many_patches(tmp_path / "many", real_patches)
    for folder in sorted(many.iterdir())[:40]:
        next(folder.glob("*_B04.tif")).unlink()
    with pytest.raises(DataError, match=r"40 of 500 patches unreadable.*More than 0\.5%"):
        bigearthnet_store(many, tmp_path / "store", max_unreadable=0.005, workers=1)
    done = (tmp_path / "store.building/done.txt").read_text().split()
    assert len(done) == 24  # the rest of the first chunk: kept for when the data is mended


# Kills and other accidents


def many_patches(root, real_patches):
    """500 patch folders of real files under other names, RGB and JSON, three without a band."""
    sources = [real_patches / name for name in names_of(real_patches)]
    for n in range(500):
        suffixes = ["B03.tif", "B04.tif", "labels_metadata.json"]
        if n not in (3, 200, 499):  # those have to be closed up at the end
            suffixes.append("B02.tif")
        renamed(sources[n % 6], root, f"S2A_MSIL2A_20170613T101031_{n // 75}_{n % 75}", suffixes)
    return root


@pytest.fixture(scope="module")
def many(real_patches, tmp_path_factory):
    """Those; only to be read."""
    return many_patches(tmp_path_factory.mktemp("many"), real_patches)


@pytest.fixture(scope="module")
def whole(many, tmp_path_factory):
    """The store of an undisturbed build of them."""
    return bigearthnet_store(many, tmp_path_factory.mktemp("stores") / "whole", workers=1)


def test_twenty_kills_in_one_ingestion_change_nothing(tmp_path, many, whole):
    rng, done, progress = np.random.default_rng(0), tmp_path / "killed.building/done.txt", [0]
    for kill in range(20):
        process = killable.start(killable.build_slowly, many, tmp_path / "killed")
        # three of four kills hit the reading, wherever it is; the others its start
        while kill % 4 and process.is_alive() and lines(done) == progress[-1]:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        progress.append(lines(done))
    assert progress == sorted(progress) and len(set(progress)) >= 15 and progress[-1] < 497
    killed = bigearthnet_store(many, tmp_path / "killed", workers=1)
    assert killed.meta["sha256"] == whole.meta["sha256"] and contents(killed) == contents(whole)
    assert names_of(tmp_path) == ["killed", "killed-unreadable.csv"]


def lines(file):
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.parametrize("write", [0, 250, 497, 498, 750])
def test_a_kill_in_the_middle_of_a_write_changes_nothing(tmp_path, many, whole, write):
    # 497 writes to read, then more to close up
    process = killable.start(killable.build_and_die, many, tmp_path / "killed", write)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert contents(bigearthnet_store(many, tmp_path / "killed", workers=1)) == contents(whole)


def test_a_killed_command_takes_its_reading_processes_along_and_is_continued(
    tmp_path, real_patches, whole, command
):
    many = many_patches(tmp_path / "many", real_patches)
    patch = many / names_of(many)[250]
    band = patch / f"{patch.name}_B03.tif"
    band.rename(patch / "kept")
    os.mkfifo(band)  # who opens that waits for ever
    process = subprocess.Popen(
        **command("src.data.bigearthnet", many, tmp_path / "store", "--workers", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    images = tmp_path / "store.building/store/images.npy"
    while not (images.exists() and images.stat().st_blocks > 100):  # the readers are at work
        assert process.poll() is None
        time.sleep(0.005)
    readers = [
        pid for pid in os.listdir("/proc") if pid.isdigit() and parent_of(pid) == process.pid
    ]
    process.kill()
    process.wait()
    until = time.monotonic() + 10
    try:
        while any(parent_of(pid) is not None and b"spawn_main" in cmdline(pid) for pid in readers):
            assert time.monotonic() < until, "reading processes outlive their parent"
            time.sleep(0.02)
    finally:
        for pid in readers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    assert len(readers) >= 2
    (patch / "kept").replace(band)
    store = bigearthnet_store(many, tmp_path / "store", workers=1)
    assert contents(store) == contents(whole)


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "Make room on that disk"), (errno.EACCES, "Change its permissions")],
)
def test_a_failing_disk_says_what_to_do_and_the_next_start_goes_on(
    tmp_path, many, whole, monkeypatch, number, remedy
):
    pwrite = os.pwrite

    def failing(file, data, at):
        if at > 250 * 43200:
            raise OSError(number, os.strerror(number))
        return pwrite(file, data[:1000], at)  # a full disk takes a part first

    message = rf"{remedy}, then run again.*store\.building"
    with monkeypatch.context() as patch, pytest.raises(DataError, match=message):
        patch.setattr(os, "pwrite", failing)
        bigearthnet_store(many, tmp_path / "store", workers=1)
    assert lines(tmp_path / "store.building/done.txt") >= 190
    assert contents(bigearthnet_store(many, tmp_path / "store", workers=1)) == contents(whole)


def test_too_little_room_is_noticed_before_anything_is_read(tmp_path, many, monkeypatch):
    usage = SimpleNamespace(total=10**9, used=10**9, free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"0\.02 GB needed, 0\.00 GB free.*Make room"):
        bigearthnet_store(many, tmp_path / "store")


def test_two_builds_of_one_store_do_not_meet(tmp_path, real_patches):
    root = shutil.copytree(real_patches, tmp_path / "patches")
    band = next(root.glob("*/*_B03.tif"))
    content = band.read_bytes()
    band.unlink()
    os.mkfifo(band)  # who opens that waits for who writes into it
    process = killable.start(killable.build, root, tmp_path / "store")
    while not (tmp_path / "store.building/done.txt").exists():
        time.sleep(0.001)
    try:
        with pytest.raises(DataError, match="another process is building this store"):
            bigearthnet_store(root, tmp_path / "store", stretch=10000)
    finally:
        band.write_bytes(content)
    process.join()
    assert process.exitcode == 0
    undisturbed = bigearthnet_store(real_patches, tmp_path / "undisturbed")
    assert contents(PatchStore.open(tmp_path / "store")) == contents(undisturbed)


def test_of_two_notebooks_that_want_a_store_one_builds_it_and_the_other_waits(
    tmp_path, real_patches, capsys
):
    root = shutil.copytree(real_patches, tmp_path / "BigEarthNet-v1.0")
    (tmp_path / "splits").mkdir()
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    (tmp_path / "splits/train.csv").write_text("\n".join(names) + "\n")
    band = next(root.glob("*/*_B03.tif"))
    content = band.read_bytes()
    band.unlink()
    os.mkfifo(band)  # who opens that waits for who writes into it
    with ThreadPoolExecutor(2) as pool:
        opened = [pool.submit(open_data, "bigearthnet", tmp_path) for _ in range(2)]
        while "waiting for it" not in capsys.readouterr().out:
            assert not any(each.done() for each in opened)
            time.sleep(0.01)
        band.write_bytes(content)
    first, second = (each.result() for each in opened)
    assert contents(first) == contents(second) and len(first) == len(names)


def test_a_build_is_locked_by_the_file_that_former_versions_locked(tmp_path, many):
    (tmp_path / "store.building").mkdir()
    with open(tmp_path / "store.building/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is building this store"):
            bigearthnet_store(many, tmp_path / "store")
    assert not (tmp_path / "store.building/plan.json").exists()


def test_a_build_does_not_go_on_with_other_settings(tmp_path, real_patches):
    process = killable.start(killable.build_and_die, real_patches, tmp_path / "store", 3)
    process.join()
    with pytest.raises(DataError, match=r"was begun otherwise \(.*stretch was 2750\.0, now 10000"):
        bigearthnet_store(real_patches, tmp_path / "store", stretch=10000)


def test_a_build_begun_from_the_archive_is_finished_from_the_folders(tmp_path, real_patches, forms):
    archive = tmp_path / "cut.tar"
    archive.write_bytes(forms["tar"].read_bytes()[: int(0.6 * forms["tar"].stat().st_size)])
    selection = all_listed(tmp_path, forms)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match="cut off"):
        patch.setattr(ingest, "CHUNK", 1)
        bigearthnet_store(archive, tmp_path / "store", selection)
    assert 0 < lines(tmp_path / "store.building/done.txt") < 6
    store = bigearthnet_store(real_patches, tmp_path / "store", selection)
    assert contents(store) == contents(bigearthnet_store(real_patches, tmp_path / "x", selection))


def test_rows_said_to_be_done_are_read_again_when_their_pixels_are_gone(tmp_path, many, whole):
    with pytest.raises(DataError, match="3 of 500"):
        bigearthnet_store(many, tmp_path / "store", max_unreadable=0.005, workers=1)
    (tmp_path / "store.building/store/images.npy").unlink()
    store = bigearthnet_store(many, tmp_path / "store", workers=1)
    assert contents(store) == contents(whole)


def test_the_cut_last_line_of_a_log_is_not_believed(tmp_path, many, whole):
    with pytest.raises(DataError, match="2 of 500"):
        bigearthnet_store(many, tmp_path / "store", max_unreadable=0.003, workers=1)
    with open(tmp_path / "store.building/done.txt", "a") as log:
        log.write("300")  # a kill has cut what comes after
    store = bigearthnet_store(many, tmp_path / "store", workers=1)
    assert contents(store) == contents(whole)


def test_mended_data_is_taken_up_and_the_old_report_goes(tmp_path, real_patches):
    many = many_patches(tmp_path / "many", real_patches)
    name = "S2A_MSIL2A_20170613T101031_0_3"
    with pytest.raises(DataError, match="3 of 500"):
        bigearthnet_store(many, tmp_path / "store", max_unreadable=0.005, workers=1)
    for folder in many.iterdir():
        if not (folder / f"{folder.name}_B02.tif").exists():
            shutil.copy(folder / f"{folder.name}_B03.tif", folder / f"{folder.name}_B02.tif")
    store = bigearthnet_store(many, tmp_path / "store", max_unreadable=0.005, workers=1)
    assert len(store) == 500 and name in store.names
    assert not (tmp_path / "store-unreadable.csv").exists()


def test_the_checksum_is_of_the_pixels_alone(tmp_path, real_patches):
    store = bigearthnet_store(real_patches, tmp_path / "store")
    assert (
        store.provenance["sha256"] == hashlib.sha256(np.asarray(store.images).tobytes()).hexdigest()
    )
    patches = zip(store.names, [None] * 6, store.images, strict=True)
    written = PatchStore.write(tmp_path / "other", patches, {})
    assert written.meta["sha256"] == store.meta["sha256"]
    assert json.loads((store.path / "meta.json").read_text())["shape"] == [6, 120, 120, 3]


# Where people have it


def beside(root, real_patches):
    """Sentinel-1's patches and the reference maps, as they lie beside Sentinel-2's."""
    for name in names_of(real_patches):
        other = name.replace("S2A", "S1A").replace("S2B", "S1B").replace("MSIL2A", "IW_GRDH_1SDV")
        for folder, file in (
            (root / "BigEarthNet-S1" / other, f"{other}_VV.tif"),
            (root / "Reference_Maps" / name.rsplit("_", 2)[0] / name, f"{name}_reference_map.tif"),
        ):
            folder.mkdir(parents=True)
            (folder / file).write_bytes(b"no band of Sentinel-2")


def hide(root):
    """What macOS leaves: first in every folder, as a folder, and beside every file."""
    for folder in (root, *[path for path in root.rglob("*") if path.is_dir()]):
        (folder / ".DS_Store").write_bytes(b"\0")
        (folder / f"._{folder.name}_B04.tif").write_bytes(b"\0\5\26\7")
        (folder / ".Trashes").mkdir()
    (root / "__MACOSX/x").mkdir(parents=True)


def as_zip(root, file):
    file.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*"), key=lambda path: (path.parent, path.name[::-1])):
            archive.write(path, path.relative_to(root.parent))
    return file


def with_everything(tiles, tmp_path, real_patches):
    root = shutil.copytree(tiles, tmp_path / "all" / "BigEarthNet-S2").parent
    beside(root, real_patches)
    return root


PLACES = {
    "v1, outer": lambda v1, v2, tmp, real: shutil.copytree(v1, tmp / "a/b/v1").parents[1],
    "v2, with Sentinel-1 and maps beside": lambda v1, v2, tmp, real: with_everything(v2, tmp, real),
    "v1, zip": lambda v1, v2, tmp, real: as_zip(v1, tmp / "v1.zip"),
    "v2, zip with everything": lambda v1, v2, tmp, real: as_zip(
        with_everything(v2, tmp, real), tmp / "v2.zip"
    ),
    "v2, tar with everything": lambda v1, v2, tmp, real: packed(
        with_everything(v2, tmp, real), tmp / "v2.tar.gz"
    ),
}


@pytest.mark.parametrize("hidden", [False, True], ids=["", "hidden files"])
@pytest.mark.parametrize("place", PLACES)
def test_bigearthnet_is_found_wherever_it_lies(tmp_path, real_patches, forms, place, hidden):
    v1, v2 = (shutil.copytree(forms[f"{v} folders"], tmp_path / v) for v in ("v1", "v2"))
    if hidden:
        hide(v1)
        hide(v2)
    root = PLACES[place](v1, v2, tmp_path / "there", real_patches)
    store = bigearthnet_store(root, tmp_path / "store")
    assert contents(store) == contents(bigearthnet_store(real_patches, tmp_path / "reference"))


def put(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"")


V1, V2 = "S2A_MSIL2A_20170613T101031_1_2", "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43"
NOWHERE = {
    "nothing": ((), "holds no patches.*it is empty"),
    "hidden alone": ((".DS_Store", "__MACOSX/a/b"), "holds no patches.*it is empty"),
    "Sentinel-1 alone": (("S1/S1A_x_1_2/S1A_x_1_2_VV.tif",), "of Sentinel-2; it holds S1"),
    "an archive": (("BigEarthNet-S2.tar.zst",), r"holds BigEarthNet-S2\.tar\.zst: give that file"),
    "a zip": (("x.zip",), r"holds x\.zip: give that file"),
    "rico-hdl": (("data.mdb", "lock.mdb"), "LMDB, as rico-hdl writes.*made from"),
    "v1 and v2 in one": (
        (f"{V1}/{V1}_B02.tif", f"{V2.rsplit('_', 2)[0]}/{V2}/{V2}_B02.tif"),
        "more than once: give one of .*v1, patch folders.*v2, tile folders",
    ),
    "v1 beside v2": (
        (f"a/{V1}/{V1}_B02.tif", f"b/{V2.rsplit('_', 2)[0]}/{V2}/{V2}_B02.tif"),
        "more than once: give one of ",
    ),
}


@pytest.mark.parametrize("what", NOWHERE)
def test_a_folder_that_is_not_it_says_what_to_give(tmp_path, what):
    files, message = NOWHERE[what]
    (tmp_path / "root").mkdir()
    put(tmp_path / "root", *files)
    with pytest.raises(DataError, match=message):
        bigearthnet_store(tmp_path / "root", tmp_path / "store")


def test_a_list_of_both_releases_is_refused(tmp_path, real_patches):
    (tmp_path / "list.csv").write_text(f"{names_of(real_patches)[0]}\n{V2}\n")
    with pytest.raises(DataError, match="patches of both releases"):
        bigearthnet_store(real_patches, tmp_path / "store", Selection(tmp_path / "list.csv"))


def test_dark_pixels_are_no_fault_where_zero_is_declared_as_nodata(
    tmp_path, write_patch, write_band
):
    dark = np.where(np.eye(120) > 0, 0, 500).astype(np.uint16)  # 0.8 % of it
    folder = write_patch(tmp_path, V2)
    for band in ("B02", "B03", "B04"):
        write_band(folder / f"{V2}_{band}.tif", dark, nodata=0)
    np.testing.assert_array_equal(read_patch(folder, None, RGB, None)[..., 0], dark)
    hole = dark.copy()
    hole[:5] = 0  # 4 % of it
    write_band(folder / f"{V2}_B02.tif", hole, nodata=0)
    assert read_patch(folder, None, RGB, None).shape == (120, 120, 3)  # water is dark in red alone
    for band in ("B03", "B04"):
        write_band(folder / f"{V2}_{band}.tif", hole, nodata=0)
    with pytest.raises(DataError, match=r"nodata \(0\) in all bands of 5\.0% of it"):
        read_patch(folder, None, RGB, None)


@pytest.mark.parametrize("state", ["absent", "damaged"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_folder_mended_after_a_build_gives_the_whole_store(
    tmp_path, real_patches, forms, state, listed, capsys
):
    root, names = shutil.copytree(real_patches, tmp_path / "v1"), names_of(real_patches)
    patch = root / names[2]
    if state == "absent":
        shutil.rmtree(patch)
    else:
        (patch / f"{names[2]}_B02.tif").write_bytes(b"damaged")
    selection = all_listed(tmp_path, forms) if listed else Selection()

    def build():
        return bigearthnet_store(root, tmp_path / "store", selection, max_unreadable=0.5)

    for _ in range(2):  # it is opened, and not built again and again
        assert build().names.tolist() == [*names[:2], *names[3:]]
    assert capsys.readouterr().out.count("BigEarthNet from") == 1
    shutil.copytree(real_patches / names[2], patch, dirs_exist_ok=True)
    store = build()
    assert contents(store) == contents(bigearthnet_store(real_patches, tmp_path / "x", selection))
    assert not (tmp_path / "store-unreadable.csv").exists()
    shutil.rmtree(patch)
    if listed:
        assert len(build()) == 6  # the list decides, and the store has them
    else:
        with pytest.raises(DataError, match=f"has changed since.*{names[2]}"):
            build()
    shutil.rmtree(root)
    assert len(build()) == 6


# Damaged archives


@pytest.fixture(scope="module")
def small(real_patches, tmp_path_factory):
    """Two patches of RGB as .tar, and what is in their store."""
    folder = tmp_path_factory.mktemp("small")
    for name in names_of(real_patches)[:2]:
        renamed(real_patches / name, folder / "v1", name, ["B02.tif", "B03.tif", "B04.tif"])
    tar = packed(folder / "v1", folder / "v1.tar")
    return tar, contents(bigearthnet_store(tar, folder / "store", workers=1))


def opener(name):
    """How to write and read what an archive of this name is packed as."""
    modules = {"tar": open, "gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    return modules[name.rpartition(".")[2]]


def repacked(tar, file, change):
    """An archive, packed again after a change of what was packed."""
    data = bytearray(tar.read_bytes())
    change(data)
    with opener(file.name)(file, "wb") as packed_file:
        packed_file.write(data)
    return file


def end_of_members(data):
    return len(data.rstrip(b"\0")) // 512 * 512 + 512


def flip_a_header(data):
    starts = [n for n in range(0, len(data), 512) if data[n + 257 : n + 262] == b"ustar"]
    data[starts[len(starts) // 2] + 3] ^= 4


def cut_at_a_member(data):
    starts = [n for n in range(0, len(data), 512) if data[n + 257 : n + 262] == b"ustar"]
    del data[starts[len(starts) // 2] :]


def cut_in_a_header(data):
    cut_at_a_member(data)
    data += b"S2A" + bytes(100)


def without_end(data):
    del data[end_of_members(data) :]


def zeros_in_the_middle(data):
    starts = [n for n in range(0, len(data), 512) if data[n + 257 : n + 262] == b"ustar"]
    start = starts[len(starts) // 2]
    data[start : start + 2048] = bytes(2048)


def more_after_the_end(data):
    data += b"another archive".ljust(512, b"\0")


INSIDE = [
    *(flip_a_header, cut_at_a_member, cut_in_a_header),
    *(without_end, zeros_in_the_middle, more_after_the_end),
]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize("change", INSIDE, ids=lambda change: change.__name__)
def test_an_archive_that_is_not_whole_is_refused_and_never_a_smaller_store(
    tmp_path, small, name, change
):
    archive = repacked(small[0], tmp_path / name, change)
    (tmp_path / "list.csv").write_text("\n".join(names_of(small[0].with_name("v1"))))
    for selection in (Selection(tmp_path / "list.csv"), Selection()):  # listed, and to be listed
        with pytest.raises(DataError, match=rf"{name} is damaged or cut off after .*download it"):
            bigearthnet_store(archive, tmp_path / "store", selection, max_unreadable=1.0)
    assert not (tmp_path / "store").exists()


def test_padding_and_several_gzip_members_are_whole(tmp_path, small):
    tar, expected = small[0].read_bytes(), small[1]
    half = len(tar) // 2
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar[:half]) + gzip.compress(tar[half:]))
    (tmp_path / "b.tar").write_bytes(tar + bytes(100_000))
    frames = (zstandard.compress(part) for part in (tar[:half], tar[half:]))
    (tmp_path / "c.tar.zst").write_bytes(b"".join(frames))
    for name in ("a.tar.gz", "b.tar", "c.tar.zst"):
        assert contents(bigearthnet_store(tmp_path / name, tmp_path / f"of {name}")) == expected


@pytest.mark.parametrize("lost", [1, 4, 5])
def test_a_zst_cut_within_its_checksum_is_refused(tmp_path, small, lost):
    whole = zstandard.ZstdCompressor(write_checksum=True).compress(small[0].read_bytes())
    (tmp_path / "whole.tar.zst").write_bytes(whole)
    assert contents(bigearthnet_store(tmp_path / "whole.tar.zst", tmp_path / "whole")) == small[1]
    (tmp_path / "a.tar.zst").write_bytes(whole[:-lost])
    with pytest.raises(DataError, match=r"a\.tar\.zst is damaged or cut off .*within a zstd frame"):
        bigearthnet_store(tmp_path / "a.tar.zst", tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("end", ["damaged", "killed"])
def test_what_a_damaged_stream_gave_is_forgotten_when_it_is_mended(
    tmp_path, real_patches, forms, end, monkeypatch
):
    """A stored block: zlib sees nothing, other pixels are decoded, and the checksum comes last."""
    whole, archive = gzip.compress(forms["tar"].read_bytes(), 0), tmp_path / "a.tar.gz"
    first = min(names_of(real_patches), key=lambda name: name[::-1])  # in the archive
    band = (real_patches / first / f"{first}_B04.tif").read_bytes()
    data = bytearray(whole)
    data[data.index(band[5000:5100]) + 50] ^= 64  # a pixel
    archive.write_bytes(data)
    done, selection = tmp_path / "store.building/done.txt", all_listed(tmp_path, forms)
    if end == "damaged":
        monkeypatch.setattr(ingest, "CHUNK", 1)
        with pytest.raises(DataError, match=r"CRC check failed.*download it again"):
            bigearthnet_store(archive, tmp_path / "store", selection)
        assert not lines(done)
    else:
        die = killable.build_noting_every_row_and_die
        killable.start(die, archive, tmp_path / "store", 4, selection).join()
        assert lines(done) == 4
    archive.write_bytes(whole)
    reference = bigearthnet_store(forms["tar"], tmp_path / "reference", selection)
    store = bigearthnet_store(archive, tmp_path / "store", selection)
    assert contents(store) == contents(reference)


def test_whatever_a_decoder_raises_is_one_unreadable_patch(tmp_path):
    def decode(folder, _):
        if folder == "b":
            raise {}["no such field"]
        return np.ones((2, 2, 3), np.uint8) if folder == "a" else np.ones((2, 2, 3), np.uint16)

    plan = Plan(["a", "b", "c"], np.ones((2, 2, 3), np.uint8), {})
    tasks = lambda rows, todo: [(row, name, None) for name, row in rows.items()]  # noqa: E731
    store = ingest.build(tmp_path / "store", plan, tasks, decode, max_unreadable=0.9)
    assert store.names.tolist() == ["a"]
    reasons = pd.read_csv(tmp_path / "store-unreadable.csv")["reason"].tolist()
    assert "b cannot be read (KeyError" in reasons[0]
    assert reasons[1] == "c: expected (2, 2, 3) uint8, got (2, 2, 3) uint16"


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bits_of_an_archive_give_the_same_store_or_one_error(tmp_path, small, seed):
    tar, expected = small
    data = bytearray(gzip.compress(tar.read_bytes(), compresslevel=1, mtime=0))
    rng = np.random.default_rng(seed)
    # everywhere, or in the header, or in the checksum and the length at the end
    places = (range(len(data)), range(10), range(len(data) - 8, len(data)))[seed % 3]
    data[rng.choice(places)] ^= 1 << rng.integers(8)
    (tmp_path / "v1.tar.gz").write_bytes(data)
    try:
        store = bigearthnet_store(tmp_path / "v1.tar.gz", tmp_path / "store", workers=1)
    except DataError:
        return
    assert contents(store) == expected


def test_a_damaged_member_of_a_zip_is_one_unreadable_patch(tmp_path, real_patches):
    archive = as_zip(real_patches, tmp_path / "v1.zip")
    names = names_of(real_patches)
    with zipfile.ZipFile(archive) as whole:
        info = next(i for i in whole.infolist() if i.filename.endswith(f"{names[1]}_B03.tif"))
    data = bytearray(archive.read_bytes())
    data[info.header_offset + 30 + len(info.filename) + 1000] ^= 1
    archive.write_bytes(data)
    store = bigearthnet_store(archive, tmp_path / "store", max_unreadable=0.5)
    assert store.names.tolist() == [names[0], *names[2:]]
    assert store.meta["counts"] == {"listed": 6, "absent": 0, "unreadable": 1}
    reason = pd.read_csv(tmp_path / "store-unreadable.csv")["reason"][0]
    assert f"{names[1]}_B03.tif is damaged in " in reason and "v1.zip" in reason


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_cut_zip_is_refused(tmp_path, real_patches, keep):
    archive = as_zip(real_patches, tmp_path / "v1.zip")
    archive.write_bytes(archive.read_bytes()[: int(keep * archive.stat().st_size)])
    with pytest.raises(DataError, match=r"v1\.zip is damaged or cut off"):
        bigearthnet_store(archive, tmp_path / "store")


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_a_file_that_claims_too_much_is_one_unreadable_patch(tmp_path, real_patches, form):
    root, names = shutil.copytree(real_patches, tmp_path / "v1"), names_of(real_patches)
    (root / names[2] / f"{names[2]}_B02.tif").write_bytes(bytes(20_000_000))
    archive = tmp_path / f"a.{form}"
    archive = as_zip(root, archive) if form == "zip" else packed(root, archive)
    assert archive.stat().st_size < 2_000_000  # ten times less than it claims
    for source in (archive, root):
        store = bigearthnet_store(source, tmp_path / f"of {source.name}", max_unreadable=0.5)
        assert store.names.tolist() == [*names[:2], *names[3:]]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_an_extended_header_that_claims_too_much_is_damage(tmp_path, kind):
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 5_000_000_000
    (tmp_path / "a.tar").write_bytes(header.tobuf() + bytes(2048))
    with pytest.raises(DataError, match="a header claims 5,000,000,000 bytes"):
        bigearthnet_store(tmp_path / "a.tar", tmp_path / "store")


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bits_in_a_geotiff_are_one_unreadable_patch_or_none(
    tmp_path, write_patch, write_band, seed
):
    rng = np.random.default_rng(seed)
    folder = write_patch(tmp_path, V1)
    file = folder / f"{V1}_B03.tif"
    band = rng.integers(1, 3000, (120, 120), dtype=np.uint16)
    write_band(file, band, **({"compress": "deflate"} if seed % 2 else {}))
    whole, data = read_patch(folder, None, RGB, None), bytearray(file.read_bytes())
    for _ in range(1 + seed % 3 // 2):  # in the header, where sizes, types and places are
        data[rng.integers(380)] ^= 1 << rng.integers(8)
    file.write_bytes(data)
    try:
        assert (read_patch(folder, None, RGB, None) == whole).all()
    except DataError as error:
        assert f"{V1}_B03.tif" in str(error)


@pytest.mark.parametrize("tag", [273, 279], ids=["offsets", "lengths"])
@pytest.mark.parametrize("value", [0, 3, 119, 250, 2**16, 2**31, 2**32 - 1])
@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_strips_that_are_not_where_they_belong_are_told_and_not_filled_up(
    tmp_path, write_patch, write_band, tag, value, compress
):
    folder = write_patch(tmp_path, V1)
    file = folder / f"{V1}_B03.tif"
    write_band(file, np.full((120, 120), 900, np.uint16), compress=compress, blockysize=16)
    data = bytearray(file.read_bytes())
    entry = data.index(struct.pack("<H", tag), 8)  # its last four bytes say where the numbers are
    data[entry + 8 : entry + 12] = struct.pack("<I", value)
    file.write_bytes(data)
    for read in (lambda: read_patch(folder, None, RGB, None), lambda: read_bands(file, [1])):
        with pytest.raises(DataError, match=r"B03\.tif"):
            read()


@pytest.mark.parametrize("what", ["a folder", "a loop", "nothing", "a device"])
def test_a_band_that_is_no_file_is_one_unreadable_patch(tmp_path, real_patches, what):
    root, names = shutil.copytree(real_patches, tmp_path / "v1"), names_of(real_patches)
    file = root / names[2] / f"{names[2]}_B03.tif"
    file.unlink()
    if what == "a folder":
        file.mkdir()
    else:
        targets = {"a loop": file, "nothing": "nowhere", "a device": "/dev/zero"}
        file.symlink_to(targets[what])
    store = bigearthnet_store(root, tmp_path / "store", max_unreadable=0.5)
    assert store.names.tolist() == [*names[:2], *names[3:]]


def test_a_geotiff_that_claims_far_too_much_is_unreadable_at_once(tmp_path, write_patch):
    folder = write_patch(tmp_path, V1)
    profile = {"width": 20_000, "height": 20_000, "count": 1, "dtype": "uint16"}
    file = folder / f"{V1}_B03.tif"
    with rasterio.open(file, "w", driver="GTiff", sparse_ok=True, **profile):
        pass
    with pytest.raises(DataError, match=r"B03\.tif: expected 1 band of 120×120"):
        read_patch(folder, None, RGB, None)


# Metadata


def metadata(tmp_path, names, change=lambda table: table, **options):
    table = pd.DataFrame({"patch_id": names, "split": "train", "country": "Austria"})
    table["contains_seasonal_snow"] = ["no", "yes"] * (len(names) // 2)
    file = tmp_path / "metadata.csv"
    change(table).to_csv(file, index=False, **options)
    return file


@pytest.mark.parametrize(
    ("yes", "no"),
    [("yes", "no"), ("True", "False"), ("true", "FALSE"), ("1", "0"), ("1.0", "0.0"), ("Y", "n")],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_flags_are_understood_in_all_usual_words(tmp_path, real_patches, yes, no, encoding):
    names = names_of(real_patches)
    words = {"yes": yes, "no": no}
    file = metadata(tmp_path, names, lambda table: table.replace(words), encoding=encoding)
    store = bigearthnet_store(real_patches, tmp_path / "store", Selection("train", file))
    assert store.names.tolist() == names[::2]


BAD_METADATA = {
    "a word": (lambda table: table.replace({"no": "perhaps"}), r"row 1 \(.*'perhaps'.*expected"),
    "nothing": (lambda table: table.replace({"no": ""}), r"row 1 .*is ''"),
    "twice": (lambda table: pd.concat([table, table[:1]]), r"row 7: .* for the second time"),
    "no such split": (lambda table: table.replace({"train": "training"}), "no split 'train'"),
    "no split": (lambda table: table.drop(columns="split"), "no column 'split'"),
}


@pytest.mark.parametrize("kind", BAD_METADATA)
def test_metadata_that_would_choose_wrongly_is_refused_with_the_row(tmp_path, real_patches, kind):
    change, message = BAD_METADATA[kind]
    file = metadata(tmp_path, names_of(real_patches), change)
    with pytest.raises(DataError, match=message):
        bigearthnet_store(real_patches, tmp_path / "store", Selection("train", file))


def test_what_is_chosen_by_name_must_be_there(tmp_path, real_patches):
    names = names_of(real_patches)
    file = metadata(tmp_path, names)
    (tmp_path / "list.csv").write_text("\n".join([*names, V1]))
    wrong = {
        "give it \\(--metadata": Selection("train"),
        "no country 'Austira'": Selection(metadata=file, countries=["Austira"]),
        f"1 patches of .* not in the metadata .*{V1}": Selection(tmp_path / "list.csv", file),
        "cannot be read": Selection(forms_of_binary(tmp_path)),
    }
    for message, selection in wrong.items():
        with pytest.raises(DataError, match=message):
            bigearthnet_store(real_patches, tmp_path / "store", selection)


def forms_of_binary(tmp_path):
    (tmp_path / "list.parquet").write_bytes(b"PAR1\xff\xfe\x00")
    return tmp_path / "list.parquet"


@pytest.mark.parametrize(("start", "end"), [("\ufeff", "\n"), ("", "\r\n")])
def test_a_list_may_have_a_byte_order_mark_or_windows_line_ends(tmp_path, real_patches, start, end):
    names = names_of(real_patches)[::-1]
    (tmp_path / "list.csv").write_text(start + end.join(names) + end, encoding="utf-8", newline="")
    store = bigearthnet_store(real_patches, tmp_path / "s", Selection(tmp_path / "list.csv"))
    assert store.names.tolist() == names


def test_a_reading_process_loads_no_network_library():
    """Every process that reads patches imports this, and torch takes a second and 500 MB."""
    code = "import sys, src.data.bigearthnet; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    assert done.returncode == 0
