"""Files as people have them: every spelling, type, scale, offset and border → the right pixels, a
refusal that says what to give, or a warning.
"""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from src.errors import DataError
from src.map import SceneOptions, open_scene

RED, GREEN, BLUE, NIR = 0, 1, 2, 3  # of `ground`
HEIGHT, WIDTH = 96, 80
L1C, L2A = (f"S2A_MSI{level}_20230821T221941_{{}}_R029_T01KAB" for level in ("L1C", "L2A"))
PRODUCT = L2A.format("N0509")


@pytest.fixture(scope="module")
def ground():
    """(4, HEIGHT, WIDTH) digital numbers of red, green, blue and near infrared."""
    rng = np.random.default_rng(0)
    shade = rng.gamma(4.0, 0.25, (HEIGHT, WIDTH))
    bands = [level * shade + rng.normal(0, 20, shade.shape) for level in (700, 750, 550, 2400)]
    return np.stack(bands).clip(30, 9000).astype(np.uint16)


@pytest.fixture
def write(tmp_path, write_band):
    """(name, layers, names=None, colours=None, tags=None, **profile) → the file."""

    def write_file(name, layers, names=None, colours=None, tags=None, **profile):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_band(path, layers, **profile)
        with rasterio.open(path, "r+") as file:
            if names:
                file.descriptions = names
            if colours:
                file.colorinterp = [ColorInterp[colour] for colour in colours]
            if tags:
                file.scales, file.offsets = tags
        return path

    return write_file


def pixels(path, **options):
    """(3, H, W) digital numbers, where they are valid, and what is doubted."""
    with open_scene(path, SceneOptions(**options)) as scene:
        numbers, valid = scene.read()
        return numbers.transpose(2, 0, 1), valid, " | ".join(scene.doubts)


# Which band is which

UNDERSTOOD = [
    ("B2", "B3", "B4", "B8"),  # Earth Engine
    ("B02", "B03", "B04", "B08"),  # odc, stackstac, HLS
    ("b02", "b03", "b04", "b08"),
    ("B02_10m", "B03_10m", "B04_10m", "B08_10m"),
    ("B02 (490 nm)", "B03 (560 nm)", "B04 (665 nm)", "B08 (842 nm)"),
    ("blue", "green", "red", "nir"),  # Earth Search
    ("Blue", "GREEN", "Red", "NIR"),
    ("Blue 2", "Green 3", "Red 4", "NIR 8"),
    ("FRE_B2", "FRE_B3", "FRE_B4", "FRE_B8"),  # Theia
    ("B02_(Raw)", "B03_(Raw)", "B04_(Raw)", "B08_(Raw)"),  # Copernicus Browser
    ("0_B2", "0_B3", "0_B4", "0_B8"),
    ("B2_median", "B3_median", "B4_median", "B8_median"),
    ("492.4 Nanometers", "559.8 Nanometers", "664.6 Nanometers", "832.8 Nanometers"),
    ("0.490 µm", "0.560 µm", "0.665 µm", "0.842 µm"),
    ("T33UVP_20200101_B02", "T33UVP_20200101_B03", "T33UVP_20200101_B04", "T33UVP_20200101_B08"),
    ("sentinel2:blue", "sentinel2:green", "sentinel2:red", "sentinel2:rededge1"),
    # other satellites' numbers, but colours besides
    ("B1 blue", "B2 green", "B3 red", "B4 nir"),  # Planet, Landsat 5
    ("Band 1 (485 nm)", "Band 2 (560 nm)", "Band 3 (660 nm)", "Band 4 (830 nm)"),
]  # fmt: skip


@pytest.mark.parametrize("names", UNDERSTOOD, ids=lambda names: names[0])
def test_names_in_every_spelling_are_understood(write, ground, names):
    found, _, doubts = pixels(write("scene.tif", ground[[BLUE, GREEN, RED, NIR]], names))
    np.testing.assert_array_equal(found, ground[:3])
    assert doubts == ""


@pytest.mark.parametrize("names", [("R", "G", "B"), ("b", "r", "g")])
def test_single_letters_are_colours_where_there_are_all_three(write, ground, names):
    order = ["rgb".index(name.lower()) for name in names]
    found, _, doubts = pixels(write("scene.tif", ground[order], names))
    np.testing.assert_array_equal(found, ground[:3])
    assert doubts == ""


REFUSED = [
    ("B1", "B2", "B3", "B4"),  # Planet's red is B3, Landsat 8's B4
    ("b1", "b2", "b3"),
    ("SR_B2", "SR_B3", "SR_B4", "SR_B5"),  # Landsat's
    ("Band 4", "Band 3", "Band 2"),
    ("green", "red", "nir"),
    ("B8", "B4", "B3"),
    ("B04", "B04", "B03", "B02"),
    ("red edge", "green", "blue"),
    ("B2 (850 nm)", "B3 (560 nm)", "B4 (665 nm)"),
    ("VV", "VH", "ratio"),
    ("B02_B03", "B03_B04", "B04_B02"),
    ("B12", "B8A", "B04"),
    ("red", "", ""),
]


@pytest.mark.parametrize("names", REFUSED, ids="-".join)
def test_names_that_do_not_tell_are_refused_until_bands_are_given(write, ground, names):
    path = write("scene.tif", ground[: len(names)], names)
    with pytest.raises(DataError, match=r"scene\.tif .*there is: 1: .*Give --bands"):
        pixels(path)
    found, _, _ = pixels(path, bands=[1, "2", 3])
    np.testing.assert_array_equal(found, ground[:3])


@pytest.mark.parametrize(
    ("count", "names", "colours", "order", "doubt"),
    [
        (3, None, None, (0, 1, 2), "does not name its bands: the first three are taken"),
        (4, None, None, (0, 1, 2), "does not name its bands"),
        (3, ("Band 1", "Band 2", "Band 3"), None, (0, 1, 2), "does not name its bands"),
        (3, None, ("blue", "green", "red"), (2, 1, 0), ""),
        (4, None, ("undefined", "blue", "green", "red"), (3, 2, 1), ""),
        (3, ("B2", "B3", "B4"), ("blue", "green", "red"), (2, 1, 0), ""),
        (
            3,
            ("B2", "B3", "B4"),
            ("red", "green", "blue"),
            None,
            "colour interpretation contradicts",
        ),
        (5, None, None, None, r"has 5 band\(s\), and nothing says which is red"),
        (3, None, ("red", "undefined", "undefined"), None, "nothing says which is red"),
        (4, None, ("gray", "alpha", "undefined", "undefined"), None, "nothing says which is red"),
    ],
)
def test_without_names_colours_tell_and_else_only_three_or_four_are_taken_with_a_warning(
    write, ground, count, names, colours, order, doubt
):
    layers = np.concatenate([ground, ground[:1]])[:count]
    path = write("scene.tif", layers, names, colours)
    if order is None:
        with pytest.raises(DataError, match=doubt):
            pixels(path)
        return
    found, _, doubts = pixels(path)
    np.testing.assert_array_equal(found, layers[list(order)])
    assert (doubt in doubts) if doubt else doubts == ""


@pytest.mark.parametrize("asked", [("B04", "B03", "B02"), ("b4", "b3", "b2"), (3, 2, 1),
                                   ("red", "green", "blue"), ("B4", 2, "Blue")])  # fmt: skip
@pytest.mark.parametrize("names", [("B2", "B3", "B4", "B8"), ("blue", "green", "red", "nir")])
def test_bands_may_be_asked_for_in_any_spelling(write, ground, asked, names):
    path = write("scene.tif", ground[[BLUE, GREEN, RED, NIR]], names)
    np.testing.assert_array_equal(pixels(path, bands=asked)[0], ground[:3])


FOLDERS = [
    "{}.tif",
    "T33UVP_20200101T101031_{}_10m.tif",
    "S2A_OPER_MSI_L1C_TL_EPA__20160929T011439_20150714T125456_A000292_T20HNH_{}.tif",  # until 2016
    "HLS.S30.T31TCJ.2020001T105349.v2.0.{}.tif",
    "HLS.L30.T31TCJ.2020001T105349.v2.0.{}.tif",  # Landsat 8 in HLS: red is B04 too
    "2024-05-01-00:00_2024-05-01-23:59_Sentinel-2_L2A_{}_(Raw).tiff",
    "SENTINEL2A_20200101-105852-462_L2A_T31TCJ_C_V2-2_FRE_{}.tif",
]


@pytest.mark.parametrize("pattern", FOLDERS)
@pytest.mark.parametrize("names", [("B04", "B03", "B02", "B08"), ("B4", "B3", "B2", "B8")])
def test_files_of_a_folder_are_found_by_their_names(tmp_path, write, ground, pattern, names):
    for name, layer in zip(names, ground, strict=True):
        write("folder/" + pattern.format(name), layer)
    np.testing.assert_array_equal(pixels(tmp_path / "folder")[0], ground[:3])


def test_colours_and_the_better_of_two_files_of_a_band_are_found(tmp_path, write, ground):
    for name, layer in zip(("red", "green", "blue", "rededge1"), ground, strict=True):
        write(f"stac/{name}.tif", layer)
        write(
            f"stac/{name}_thumbnail.png.aux.tif" if name == "none" else f"stac/.{name}.tif", layer
        )
    for name, layer in zip(("B4", "B3", "B2"), ground, strict=False):
        write(f"theia/X_SRE_{name}.tif", layer + 5)
        write(f"theia/X_FRE_{name}.tif", layer)
        write(f"sizes/R10m/T_{name}_10m.tif", layer)
        write(f"sizes/R20m/T_{name}_20m.tif", layer + 5)
        write(f"sizes/QI_DATA/MSK_{name}.tif", layer + 5)
    for folder in ("stac", "theia", "sizes"):
        np.testing.assert_array_equal(pixels(tmp_path / folder)[0], ground[:3], folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a_B04.tif", "b_B04.tif", "B03.tif", "B02.tif"), "found a_B04.tif, b_B04.tif: give the"),
        (("LT05_L1TP_B3.TIF", "LT05_L1TP_B2.TIF", "LT05_L1TP_B1.TIF"), "is not of Sentinel-2"),
        (("LC08_L2SP_SR_B4.TIF", "LC08_L2SP_SR_B3.TIF"), "is not of Sentinel-2"),
        (("B1.tif", "B2.tif", "B3.tif", "B4.tif"), "found none; there is: B1.tif"),
        (("stack.tif",), r"found none; there is: stack.tif. Give a file, or --bands"),
        ((), "found none"),
    ],
)  # fmt: skip
def test_folders_that_do_not_tell_are_refused(tmp_path, write, ground, files, message):
    (tmp_path / "folder").mkdir()
    for name in files:
        write(f"folder/{name}", ground[0])
    with pytest.raises(DataError, match=message):
        pixels(tmp_path / "folder")


def test_files_of_several_bands_in_a_folder_are_refused(tmp_path, write, ground):
    for name in ("B04", "B03", "B02"):
        write(f"folder/{name}.tif", ground[:2])
    with pytest.raises(DataError, match="has 2 bands where a file a band is expected"):
        pixels(tmp_path / "folder")


def test_what_is_packed_or_only_describes_a_scene_says_what_to_give(tmp_path):
    for name in ("S2A.SAFE.zip", "S2A.tar.gz"):
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(DataError, match=f"{name} is packed: unpack it and give the folder"):
            pixels(tmp_path / name)
    (tmp_path / "MTD_MSIL2A.xml").write_text("<a/>")
    with pytest.raises(DataError, match="describes a scene: give its folder"):
        pixels(tmp_path / "MTD_MSIL2A.xml")


# What was added and multiplied


def product(folder, write, ground, added, name=PRODUCT, metadata="MTD_MSIL2A.xml"):
    """A product's layout with metadata that says 1000 is added, or whatever `added` holds."""
    granule = f"{name}.SAFE/GRANULE/L2A_T01KAB"
    for band, layer in zip(("B04", "B03", "B02"), ground + 1000, strict=False):
        write(f"{granule}/IMG_DATA/R10m/T01KAB_{band}_10m.tif", layer)
    if metadata:
        (folder / f"{name}.SAFE" / metadata).write_text(added)
    return folder / f"{name}.SAFE"


ADDED = "<p><n:a xmlns:n='x'><BOA_ADD_OFFSET>-1000</BOA_ADD_OFFSET></n:a></p>"


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ("MTD_MSIL2A.xml", ADDED),
        ("product_metadata.xml", ADDED),
        ("MTD_MSIL1C.xml", ADDED.replace("BOA", "RADIO")),
        ("MTD_MSIL2A.xml", "<p><PROCESSING_BASELINE>05.09</PROCESSING_BASELINE></p>"),
        (None, ""),  # the name says N0509
    ],
)
@pytest.mark.parametrize("inner", ["", "GRANULE", "GRANULE/L2A_T01KAB/IMG_DATA",
                                   "GRANULE/L2A_T01KAB/IMG_DATA/R10m"])  # fmt: skip
def test_any_folder_of_a_product_gives_the_same_pixels(
    tmp_path, write, ground, metadata, text, inner
):
    name = "S2A.N0509" if metadata else L2A.format("N0509")
    safe = product(tmp_path, write, ground, text, name if metadata is None else "S2A", metadata)
    found, valid, doubts = pixels(safe / inner)
    np.testing.assert_array_equal(found, ground[:3])
    assert valid.all() and doubts == ""


def test_the_tiles_metadata_and_a_files_own_name_say_the_baseline_too(tmp_path, write, ground):
    safe = product(tmp_path, write, ground, "", "S2A", metadata=None)
    tile = "<t><TILE_ID>S2A_OPER_MSI_L2A_TL_2APS_A042640_T01KAB_N05.09</TILE_ID></t>"
    (safe / "GRANULE/L2A_T01KAB/MTD_TL.xml").write_text(tile)
    named = write(L1C.format("N0400") + ".tif", ground[:3] + 1000, ("B4", "B3", "B2"))
    for path in (safe, named):
        found, _, doubts = pixels(path)
        np.testing.assert_array_equal(found, ground[:3])
        assert doubts == ""
    with open_scene(named) as scene:
        assert scene.reading["level"] == "L1C" and "N0400" in scene.reading["offset_from"]


@pytest.mark.parametrize("text", ["", "<p>", "not xml", ADDED.replace("-1000", "much")])
def test_damaged_metadata_is_one_clear_error_until_the_offset_is_given(
    tmp_path, write, ground, text
):
    safe = product(tmp_path, write, ground, text)
    with pytest.raises(DataError, match=r"MTD_MSIL2A\.xml .*give --offset"):
        pixels(safe)
    np.testing.assert_array_equal(pixels(safe, offset=1000)[0], ground[:3])


@pytest.mark.parametrize("baseline", ["N0208", "N0301", "N9999"])
def test_older_baselines_and_ones_own_add_nothing(write, ground, baseline):
    path = write(L2A.format(baseline) + "/scene.tif", ground[:3], ("B4", "B3", "B2"))
    found, _, doubts = pixels(path)
    np.testing.assert_array_equal(found, ground[:3])
    assert doubts == ""


def test_an_offset_that_was_taken_off_already_is_doubted(write, ground):
    path = write(L2A.format("N0509") + ".tif", ground[:3], ("B4", "B3", "B2"))
    doubts = pixels(path)[2]
    assert "of the pixels have a reflectance below 0" in doubts and "Then give --offset 0" in doubts
    twice = write("twice.tif", ground[:3].astype(np.int16) - 1000, ("B4", "B3", "B2"))
    assert "was 1000 taken off twice? Then give --offset -1000" in pixels(twice)[2]
    np.testing.assert_array_equal(pixels(twice, offset=-1000)[0], ground[:3])
    found, _, doubts = pixels(path, offset=0)
    np.testing.assert_array_equal(found, ground[:3])
    assert doubts == ""


def test_what_may_or_may_not_have_an_offset_is_read_as_it_is_and_both_readings_are_told(
    write, ground
):
    path = write("scene.tif", ground[:3] + 800, ("B4", "B3", "B2"))
    found, _, doubts = pixels(path)
    np.testing.assert_array_equal(found, ground[:3] + 800)
    assert "read with offset 0 (a guess: the darkest band's 2nd percentile is 9" in doubts
    assert "With --offset 0 the median digital numbers are (14" in doubts
    assert "with --offset 1000 (44" in doubts


# how the values 0 … 10,000 are written: (dtype, factor, added, tags, what is doubted)
WRITTEN = [
    ("uint16", 1, 0, None, ""),
    ("int16", 1, 0, None, ""),
    ("int32", 1, 0, None, ""),
    ("float32", 1, 0, None, ""),
    ("float64", 1, 0, None, ""),
    ("float32", 1e-4, 0, None, ""),
    ("float64", 1e-4, 0, None, ""),
    ("uint16", 1, 1000, None, "does not say whether 1000 was added"),
    ("int16", 1, 1000, None, "does not say whether 1000 was added"),
    ("float32", 1e-4, 1000, None, "does not say whether 1000 was added"),
    ("uint16", 1, 1000, (1e-4, -0.1), ""),
    ("int16", 1, 0, (1e-4, 0.0), ""),
    ("uint16", 1, 1000, (1.0, -1000.0), ""),
    ("uint16", 2, 0, (0.5e-4, 0.0), ""),
    ("int32", 10, 500, (1e-5, -0.005), ""),
]


@pytest.mark.parametrize(("dtype", "factor", "added", "tags", "doubt"), WRITTEN)
def test_every_type_scale_and_offset_gives_the_same_digital_numbers(
    write, ground, dtype, factor, added, tags, doubt
):
    values = (ground[:3].astype(float) + added * (factor < 2)) * factor + added * (factor > 2)
    tags = tags and ([tags[0]] * 3, [tags[1]] * 3)
    path = write("scene.tif", values.astype(dtype), ("B4", "B3", "B2"), tags=tags)
    found, valid, doubts = pixels(path)
    np.testing.assert_array_equal(found, ground[:3])
    assert valid.all() and ((doubt in doubts) if doubt else doubts == "")


def test_each_bands_own_tags_count(write, ground):
    values = np.stack([ground[0], ground[1] * 2, ground[2] + 1000])
    tags = ([1e-4, 0.5e-4, 1e-4], [0.0, 0.0, -0.1])
    found, _, _ = pixels(write("scene.tif", values, ("B4", "B3", "B2"), tags=tags))
    np.testing.assert_array_equal(found, ground[:3])


@pytest.mark.parametrize(
    ("dtype", "factor"), [("float32", 1e-2), ("float32", 1 / 11), ("uint16", 1 / 38), ("uint8", 0)]
)
def test_values_of_another_unit_are_refused_until_the_scale_is_given(write, ground, dtype, factor):
    """Per cent, grey levels as floats or as 16 bit; an 8-bit picture has no scale."""
    values = np.clip(ground[:3] * factor, 0, 255).astype(dtype)
    path = write("scene.tif", values, ("B4", "B3", "B2"))
    if dtype == "uint8":
        with pytest.raises(ValueError, match="8-bit bands, which are pictures"):
            pixels(path, scale=10)
        return
    with pytest.raises(DataError, match=r"Give --scale \(SCALE in notebook 10\)"):
        pixels(path)
    expected = np.minimum(ground[:3], 255 / factor)
    assert abs(pixels(path, scale=1 / factor)[0] - expected).max() <= 1 / factor + 0.5


@pytest.mark.parametrize(
    ("name", "white", "taken", "doubt"),
    [
        ("scene.tif", None, None, "8-bit values are taken as they are"),
        ("scene.tif", 2000, 2000, ""),
        ("T33_TCI.tif", None, 2000, r"as of level 2A; of level 1C it is 3558 (--white)"),
        (L2A.format("N0208") + "/T33_TCI_10m.tif", None, 2000, ""),
        (L1C.format("N0208") + "/T33_TCI.tif", None, 3558, ""),
    ],
)  # fmt: skip
def test_what_an_8_bit_picture_shows_as_white_is_known_or_told(
    write, ground, name, white, taken, doubt
):
    grey = (ground[:3] / 2000 * 255).clip(1, 255).astype(np.uint8)
    found, _, doubts = pixels(write(name, grey, ("red", "green", "blue")), white=white)
    expected = grey if taken is None else np.round(grey * (taken / 255))
    np.testing.assert_array_equal(found, expected)
    assert (doubt in doubts) if doubt else doubts == ""


def test_the_colours_of_an_8_bit_picture_are_doubted_for_they_are_written_unasked(write, ground):
    path = write("scene.tif", (ground[:3] / 10).astype(np.uint8), photometric="RGB")
    assert "by the file's colour interpretation alone" in pixels(path)[2]
    product = write(L2A.format("N0208") + "/T33_TCI_10m.tif", ground[:3].astype(np.uint8))
    assert pixels(product)[2] == ""
    named = write("named.tif", (ground[:3] / 10).astype(np.uint8), ("B2", "B3", "B4"))
    np.testing.assert_array_equal(pixels(named)[0], (ground[2::-1] / 10).astype(np.uint8))


# Borders and gaps


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("nodata", [None, 0])
def test_zero_in_all_bands_is_no_data_whatever_the_type(write, ground, dtype, nodata):
    values = (ground[:3] // (40 if dtype == "uint8" else 1) + 1).astype(dtype)
    values[:, :, :20], values[1, 5, 50] = 0, 0
    _, valid, _ = pixels(write("scene.tif", values, ("B4", "B3", "B2"), nodata=nodata))
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[:, :20] = False
    np.testing.assert_array_equal(valid, expected)  # one dark band alone is no gap


@pytest.mark.parametrize(
    ("dtype", "fill", "nodata", "unit"),
    [
        ("int16", -9999, -9999, 1),
        ("int16", -9999, None, 1),  # declared or not, nothing measured is so dark
        ("int16", -32768, None, 1),
        ("float32", -9999, None, 1),
        ("float32", -9999, -9999, 1e-4),
        ("float32", -9999, None, 1e-4),
        ("float32", np.nan, np.nan, 1),
        ("float32", np.nan, None, 1e-4),
        ("float64", np.inf, None, 1),
        ("float32", -np.inf, -9999, 1e-4),
        ("uint16", 65535, 65535, 1),
        ("uint16", 65535, None, 1),
        ("uint16", 7, 7, 1),
        ("float32", -3.4e38, None, 1e-4),
    ],
)
def test_every_kind_of_gap_is_known(write, ground, dtype, fill, nodata, unit):
    values = (ground[:3] * unit).astype(dtype)
    values[:, 10:30, 40:] = fill
    path = write("scene.tif", values, ("B4", "B3", "B2"), nodata=nodata)
    found, valid, doubts = pixels(path)
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[10:30, 40:] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(found[:, valid], ground[:3][:, valid])
    assert doubts == ""


def test_a_border_that_an_offset_was_taken_off_is_no_data(write, ground):
    values = ground[:3] / 1e4
    values[:, :, :20] = -0.1  # was 0 before 1000 was taken off
    _, valid, _ = pixels(write("scene.tif", values.astype("float32"), ("B4", "B3", "B2")))
    assert not valid[:, :20].any() and valid[:, 20:].all()


def test_nodata_declared_in_one_file_or_given_counts_in_all(tmp_path, write, ground):
    values = ground[:3].copy()
    values[:, :9, :9] = 11
    for n, name in enumerate(("B04", "B03", "B02")):
        write(f"one/{name}.tif", values[n], nodata=11 if n == 1 else None)
        write(f"none/{name}.tif", values[n])
    for folder, options in (("one", {}), ("none", {"nodata": 11})):
        valid = pixels(tmp_path / folder, **options)[1]
        assert not valid[:9, :9].any() and valid[9:].all() and valid[:, 9:].all()
    assert pixels(tmp_path / "none")[1].all()


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_masks_and_alpha_count(tmp_path, write, ground, kind):
    shown = np.full((HEIGHT, WIDTH), 255, np.uint8)
    shown[:, 60:] = 0
    if kind == "mask":
        path = write("scene.tif", ground[:3], ("B4", "B3", "B2"))
        with rasterio.open(path, "r+") as file:
            file.write_mask(shown)
    else:
        layers = np.concatenate([ground[:3], shown[None].astype(np.uint16) * 257])
        colours = ("red", "green", "blue", "alpha")
        path = write("scene.tif", layers, ("B4", "B3", "B2", "alpha"), colours)
    valid = pixels(path)[1]
    assert valid[:, :60].all() and not valid[:, 60:].any()


def test_how_a_scene_was_read_is_told_in_plain_values(write, ground):
    path = write("scene.tif", ground[[BLUE, GREEN, RED]], ("B2", "B3", "B4"))
    with open_scene(path) as scene:
        read, text = scene.reading, scene.described()
    assert read["bands"]["red"] == "scene.tif, band 3 (B4)"
    assert "red: scene.tif, band 3 (B4); green: scene.tif, band 2 (B3)" in text
    assert (read["scale"], read["offset"], read["nodata"]) == (1.0, 0.0, [0.0])
