"""PatchStore: what is written is read, half a store never stays, and a damaged one is refused."""

import hashlib
import json

import numpy as np
import pytest
from filelock import FileLock

from src.data.store import PatchStore, open_if_there
from src.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)


def triples(n=3, labels=True):
    return [(f"patch_{i}", i % 2 if labels else None, IMAGES[i]) for i in range(n)]


def edit_meta(folder, **changes):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes}))


@pytest.fixture
def path(tmp_path):
    # not the store itself: its file is cut in some tests, which no one may have mapped
    return PatchStore.write(tmp_path / "store", triples(), {"kind": "test"}).path


def test_write_then_open_gives_everything_back(tmp_path):
    meta = {"kind": "test", "source": "/data", "classes": ["a", "b"]}
    PatchStore.write(tmp_path / "deep" / "er" / "store", triples(), meta)
    store = PatchStore.open(tmp_path / "deep" / "er" / "store")
    np.testing.assert_array_equal(store.images, IMAGES[:3])
    assert store.labels.dtype == np.int64 and store.labels.tolist() == [0, 1, 0]
    assert store.names.tolist() == ["patch_0", "patch_1", "patch_2"]
    sha256 = hashlib.sha256(IMAGES[:3].tobytes()).hexdigest()
    assert store.meta == {"format": 1, **meta, "shape": [3, 5, 4, 3], "sha256": sha256}
    assert store.provenance == {key: store.meta[key] for key in store.meta if key != "source"}
    assert len(store) == 3


def test_without_labels_there_are_none(tmp_path):
    assert PatchStore.write(tmp_path / "store", triples(labels=False), {}).labels is None


def test_dtype_is_kept(tmp_path):
    patches = [("a", None, np.full((2, 2, 12), 4242, np.uint16))]
    images = PatchStore.write(tmp_path / "store", patches, {}).images
    assert images.dtype == np.uint16 and (images == 4242).all()


def test_views_into_larger_arrays_are_written_in_the_right_order(tmp_path):
    # not contiguous: its bytes in memory are not its pixels in order
    turned = IMAGES[0].swapaxes(0, 1)[:, ::-1]
    store = PatchStore.write(tmp_path / "store", [("a", 0, turned)], {})
    np.testing.assert_array_equal(store.images[0], turned)


def test_names_that_csv_readers_love_to_change_come_back_as_they_were(tmp_path):
    missing, numbers = ["NA", "nan", "None", ""], ["007", "1e5"]
    others = ["a,b", 'q"x', "line\nbreak", " spaces ", "#hash", "Übersee"]
    names = [*missing, *numbers, *others]
    patches = [(name, None, image) for name, image in zip(names, IMAGES, strict=True)]
    assert PatchStore.write(tmp_path / "store", patches, {}).names.tolist() == names


def test_names_that_are_all_numbers_stay_text(tmp_path):
    patches = [(name, None, image) for name, image in zip(["007", "010"], IMAGES, strict=False)]
    assert PatchStore.write(tmp_path / "store", patches, {}).names.tolist() == ["007", "010"]


@pytest.mark.parametrize("count", [1, 10, 1234])  # of other widths than the placeholder's digit
def test_images_npy_is_a_plain_numpy_file_with_the_true_count(tmp_path, count):
    patches = ((str(i), None, np.full((1, 1, 1), i % 256, np.uint8)) for i in range(count))
    PatchStore.write(tmp_path / "store", patches, {})
    array = np.load(tmp_path / "store" / "images.npy")
    assert array.ravel().tolist() == [i % 256 for i in range(count)]


def test_images_are_mapped_and_writing_to_them_leaves_the_file_alone(path):
    store = PatchStore.open(path)
    assert isinstance(store.images, np.memmap)
    store.images[:] = 7
    np.testing.assert_array_equal(PatchStore.open(path).images, IMAGES[:3])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_error_halfway_leaves_nothing_behind_and_passes_through(tmp_path, error):
    def broken():
        yield from triples(2)
        raise error("halfway")

    with pytest.raises(error, match="halfway"):
        PatchStore.write(tmp_path / "store", broken(), {})
    assert list(tmp_path.iterdir()) == []


def test_meta_that_json_cannot_hold_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        PatchStore.write(tmp_path / "store", triples(), {"source": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_no_patches_is_an_error_that_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError, match="no readable patches for store"):
        PatchStore.write(tmp_path / "store", [], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "odd", [IMAGES[0, :3], IMAGES[0].astype(np.uint16)], ids=["shape", "dtype"]
)
def test_patches_that_differ_are_refused_by_name(tmp_path, odd):
    with pytest.raises(DataError, match=r"odd_one: expected .* as the first patch") as caught:
        PatchStore.write(tmp_path / "store", [*triples(), ("odd_one", 0, odd)], {})
    assert str(odd.shape) in str(caught.value) and str(odd.dtype) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_path_is_refused_and_kept(path):
    with pytest.raises(DataError, match="exists already"):
        PatchStore.write(path, triples(1), {})
    assert len(PatchStore.open(path)) == 3


def test_a_newer_format_is_refused_with_both_versions(path):
    edit_meta(path, format=99)
    with pytest.raises(DataError, match="store format 99, this code reads up to 1"):
        PatchStore.open(path)


# nothing, part of the header, part of the pixels, all but a byte
@pytest.mark.parametrize("keep", [0, 50, 200, -1])
def test_truncated_images_are_refused(path, keep):
    file = path / "images.npy"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match="build it again"):
        PatchStore.open(path)


@pytest.mark.parametrize("missing", ["images.npy", "index.csv"])
def test_a_missing_file_is_named(path, missing):
    (path / missing).unlink()
    with pytest.raises(DataError, match=missing):
        PatchStore.open(path)


@pytest.mark.parametrize("where", ["store", "elsewhere"])
def test_a_folder_without_meta_is_not_a_store(path, where):
    (path / "meta.json").unlink()
    with pytest.raises(DataError, match=r"not a store: it has no meta\.json"):
        PatchStore.open(path.with_name(where))


@pytest.mark.parametrize("text", ["", '{"format": 1, "sha', "{}"], ids=["empty", "cut", "no keys"])
def test_damaged_meta_is_refused(path, text):
    (path / "meta.json").write_text(text)
    with pytest.raises(DataError, match="store"):
        PatchStore.open(path)


def test_an_index_with_a_row_missing_is_refused(path):
    index = path / "index.csv"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"index\.csv 2 rows"):
        PatchStore.open(path)


@pytest.mark.parametrize(
    "text",
    ["", "title,label\na,0\nb,1\nc,0\n", "name,label\na,0\nb,one\nc,0\n"],
    ids=["empty", "column", "label"],
)
def test_a_damaged_index_is_refused(path, text):
    (path / "index.csv").write_text(text)
    with pytest.raises(DataError, match="build it again"):
        PatchStore.open(path)


def test_meta_of_other_images_is_refused(path):
    edit_meta(path, shape=[4, 5, 4, 3])
    with pytest.raises(DataError, match="build it again"):
        PatchStore.open(path)


def test_open_if_there_opens_what_was_made_so_and_gives_none_otherwise(tmp_path, path):
    assert open_if_there(tmp_path / "nowhere", {"kind": "test"}) is None
    assert len(open_if_there(path, {"kind": "test"})) == 3


def test_open_if_there_refuses_a_store_made_otherwise_and_says_how_it_differs(path):
    with pytest.raises(DataError) as caught:
        open_if_there(path, {"kind": "other", "stretch": 2750.0})
    assert "kind was 'test', now 'other'" in str(caught.value)
    assert "stretch was None, now 2750.0" in str(caught.value)


# Everything that can stand in the files of a store

LABELS = {
    "-1": "row 2 \\(patch_1\\): label '-1'",
    "1.7": "'1.7'",
    "-100": "'-100'",
    "inf": "'inf'",
    "nan": "'nan'",
    "1e9": "'1e9'",
    "2": "'2' is none of the whole numbers from 0 to 1",
    "True": "'True'",
    "one": "'one'",
    "": "label '' .*which every row or none must have",
    " ": "' '",
}


@pytest.mark.parametrize("label", LABELS)
def test_a_label_that_is_no_class_is_refused_with_its_row(tmp_path, label):
    path = PatchStore.write(tmp_path / "store", triples(), {"classes": ["a", "b"]}).path
    index = path / "index.csv"
    index.write_text(index.read_text().replace("patch_1,1", f"patch_1,{label}"))
    with pytest.raises(DataError, match=LABELS[label]):
        PatchStore.open(path)


METAS = {
    "a list": [],
    "null": None,
    "a number": 3,
    "format is text": {"format": "1"},
    "format is true": {"format": True},
    "format is null": {"format": None},
    "shape is null": {"shape": None},
    "shape is text": {"shape": "3"},
    "shape of two": {"shape": [3, 5]},
    "shape of floats": {"shape": [3.0, 5.0, 4.0, 3.0]},
    "classes is text": {"classes": "ab"},
    "classes of numbers": {"classes": [1, 2]},
}


@pytest.mark.parametrize("kind", METAS)
def test_meta_of_another_kind_is_refused_in_one_line(path, kind):
    if isinstance(METAS[kind], dict):
        edit_meta(path, **METAS[kind])
    else:
        (path / "meta.json").write_text(json.dumps(METAS[kind]))
    with pytest.raises(DataError, match=r"meta\.json is damaged.*build it again"):
        PatchStore.open(path)


@pytest.mark.parametrize("dtype", ["int8", "float16", "float64", ">u2", "bool", "object"])
def test_images_of_another_dtype_are_refused(path, dtype):
    np.save(path / "images.npy", np.zeros((3, 5, 4, 3), dtype))
    with pytest.raises(DataError, match="build it again"):
        PatchStore.open(path)


def test_a_changed_index_is_told_and_may_be_meant(path):
    index = path / "index.csv"
    index.write_text(index.read_text().replace("patch_0,0", "patch_0,1"))
    with pytest.raises(DataError, match=r"not what was written .*delete SHA256SUMS"):
        PatchStore.open(path)
    (path / "SHA256SUMS").unlink()  # as the message says
    assert PatchStore.open(path).labels.tolist() == [1, 1, 0]


def test_the_checksums_are_what_sha256sum_reads(path):
    for line in (path / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert digest == hashlib.sha256((path / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("seed", range(150))
def test_flipped_bytes_of_a_store_give_the_same_or_one_error(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = PatchStore.write(tmp_path / "store", triples(), {"classes": ["a", "b"]}).path
    file = path / ("images.npy", "index.csv", "meta.json")[seed % 3]
    data = bytearray(file.read_bytes())
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    file.write_bytes(data)
    try:
        store = PatchStore.open(path)
    except DataError:
        return
    np.testing.assert_array_equal(store.images, IMAGES[:3])
    assert store.labels.tolist() == [0, 1, 0]
    assert store.names.tolist() == ["patch_0", "patch_1", "patch_2"]


def test_what_a_killed_writer_left_is_replaced_and_another_one_is_told(tmp_path):
    (tmp_path / "store.partial/store").mkdir(parents=True)
    (tmp_path / "store.partial/store/images.npy").write_bytes(b"half")
    told = pytest.raises(DataError, match="another process is writing this store")
    with FileLock(tmp_path / "store.partial/lock"), told:
        PatchStore.write(tmp_path / "store", triples(), {})
    assert len(PatchStore.write(tmp_path / "store", triples(), {})) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_opening_writes_nothing(path):
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    PatchStore.open(path)
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before
    assert [file.name for file in path.parent.iterdir()] == ["store"]
