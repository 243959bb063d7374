"""A user's own images, by name, folder or store; the commands of docs/own-data.md run for real."""

import contextlib
import importlib
import io
import json
import re
import shlex
import sys
import warnings

import numpy as np
import papermill
import pytest
from PIL import Image

from src.checkpoints import load
from src.data.images import RESISC45_CLASSES, image_folder_store
from src.data.known import data_of, open_data
from src.errors import DataError
from src.profiles import ROOT, open_profile

KINDS = ("asphalt", "bare soil", "gravel", "lawn", "reed", "snow", "water")
PAGE = ROOT / "docs/own-data.md"
# what the commands of the page say, made small
SMALL = {
    "src.pretrain": "--epochs 1 --batch-size 8 --image-size 16 --device cpu",
    "src.finetune": "--phases 0 0 2 --batch-size 8 --image-size 16 --samples 2 --device cpu",
    "src.map": "--device cpu",
    "src.embed": "--device cpu",
}


def picture(rng, size, colour):
    noise = rng.integers(0, 60, (size, size, 3))
    return Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def own(tmp_path_factory, write_band):
    """Seven kinds of ground in two sizes, patches of four bands, other things, and a scene."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for label, kind in enumerate(KINDS):
        (folder / "photos" / kind).mkdir(parents=True)
        for n in range(12):
            image = picture(rng, (32, 48)[n % 2], np.array([25 * label, 180 - 25 * label, 90]))
            image.save(folder / "photos" / kind / f"{kind}_{n}.png")
    for name in ("patches", "others"):
        (folder / name).mkdir()
    for n in range(16):
        bands = rng.integers(0, 3000, (4, 24, 24)).astype(np.uint16)
        write_band(folder / f"patches/patch_{n}.tif", bands)
        picture(rng, 40, 120).save(folder / f"others/other_{n}.png")
    scene = rng.integers(300, 3000, (3, 96, 96)).astype(np.uint16)
    write_band(folder / "SCENE.tif", scene, photometric="RGB")
    return folder


def commands():
    """(module, arguments) of every `python -m` of the page, in its order."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if "python -m" in line]
    words = [shlex.split(line, comments=True) for line in lines]
    return [(line[2], line[3:]) for line in words]


def run(folder, module, *arguments):
    """As `python -m` in this folder, but in this process; what was printed."""
    package = hasattr(importlib.import_module(module), "__path__")
    main = importlib.import_module(f"{module}.__main__" if package else module).main
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as told,
        warnings.catch_warnings(record=True, action="default"),  # of a made scene's tones
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [module, *arguments, *SMALL.get(module, "").split()])
        main()
    return told.getvalue()


@pytest.fixture(scope="module")
def printed(own):
    """What every command of the page printed, run one after the other."""
    told = []
    for module, arguments in commands():
        files = sorted(own.glob("own/final_supervised_model_prog*.pth"))
        made = {"best_contrastive_model_50Ep": "best_contrastive_model_1Ep"}
        words = [word.replace(*pair) for word in arguments for pair in made.items()]
        words = [str(files[0]) if "…" in word else word for word in words]
        told.append((module, run(own, module, *words)))
    return told


def test_the_commands_of_the_page_end_with_what_they_promise(own, printed):
    modules = [module for module, _ in printed]
    assert modules == [
        *("src.data.images", "src.data.images", "src.pretrain", "src.finetune", "src.finetune"),
        *("src.results", "src.map", "src.embed"),
    ]
    tuned = [text for module, text in printed if module == "src.finetune"]
    for text in tuned:
        assert "others is told from photos by mutual information with AUROC" in text
        assert re.search(r"% of \d+ test images \[", text)
    assert {path.name for path in (own / "own/map").glob("*.*")} >= {"class.tif", "map.png"}
    assert json.loads((own / "own/map/map.json").read_text())["trained_on"] == "photos"
    assert len(np.load(own / "own/embedded/features.npy")) == 7 * 12
    records = [json.loads(file.read_text()) for file in (own / "own/records").glob("*.json")]
    assert {record["classes"][1] for record in records} == {KINDS[1]} and len(records) == 2


def test_no_output_of_own_data_speaks_of_the_studys(printed):
    for module, text in printed:
        if module != "src.map":  # which compares a scene's tones with those of Sentinel-2
            assert not re.search("EuroSAT|UC ?Merced|BigEarthNet", text, re.I), module


def test_notebook_05_asks_the_two_questions_of_own_folders(own, printed, monkeypatch):
    for library in ("OMP", "MKL", "OPENBLAS"):
        monkeypatch.setenv(f"{library}_NUM_THREADS", "1")
    monkeypatch.setenv("NUMBA_OPT", "0")
    parameters = {
        "WORKSPACE": str(own / "workspace"),
        "LABELLED": str(own / "stores/photos"),
        "OOD": str(own / "others"),
        "PRETRAINED": [str(own / "own/best_contrastive_model_1Ep.pth")],
        "PHASES": [1, 0, 1],
        "BATCH_SIZE": 8,
        "IMAGE_SIZE": 16,
        "MC_SAMPLES": 2,
        "DEVICE": "cpu",
    }
    (notebook,) = (ROOT / "notebooks").glob("05_*.ipynb")
    ran = papermill.execute_notebook(
        notebook, own / "05.ipynb", parameters, kernel_name="python3", progress_bar=False
    )
    text = json.dumps([cell.get("outputs", []) for cell in ran.cells])
    text = re.sub(r'"image/png": "[^"]*"', "", text)
    assert "others is told from photos by mutual information" in text
    assert not re.search("EuroSAT|UC ?Merced|airplane", text)


def test_a_folder_is_decoded_once_and_named_for_people(own, tmp_path):
    store = open_data(own / "others", tmp_path)
    assert store.title == "others" and store.labels is None and len(store) == 16
    assert open_data(own / "others", tmp_path).path == store.path
    assert open_data(store.path).title == "others"
    # another folder of the same name is another store
    other = tmp_path / "elsewhere/others"
    other.mkdir(parents=True)
    picture(np.random.default_rng(1), 20, 9).save(other / "one.png")
    assert len(open_data(other, tmp_path)) == 1


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("eurosta", "'eurosta' is no data: expected eurosat, ucmerced, resisc45"),
        ("nowhere/at/all", "is no data"),
        ("eurosat", r"SETUP.md.*demo"),
        ("resisc45", r"NWPU-RESISC45 not found"),
        ("bigearthnet-v2", "SETUP.md"),
    ],
)
def test_data_that_is_not_there_is_told_with_what_there_might_be(tmp_path, what, told):
    with pytest.raises(DataError, match=told):
        open_data(what, tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_sizes_that_differ_are_refused_with_the_command_that_resizes(own, tmp_path):
    with pytest.raises(DataError, match=r"src\.data\.images FOLDER STORE --size"):
        open_data(own / "photos", tmp_path)


def test_classes_are_chosen_in_the_order_asked_for(own, tmp_path):
    path = tmp_path / "photos"
    whole = image_folder_store(own / "photos", path, size=16)
    some = open_data(path, classes=["water", "lawn"])
    assert some.meta["classes"] == ["water", "lawn"] and np.bincount(some.labels).tolist() == [
        12,
        12,
    ]
    for name, label, image in zip(some.names, some.labels, some.images, strict=True):
        assert name.startswith(["water", "lawn"][label])
        np.testing.assert_array_equal(image, whole.images[whole.names.tolist().index(name)])
    with pytest.raises(DataError, match="no class 'waters': there are asphalt, bare soil"):
        open_data(path, classes=["waters"])
    with pytest.raises(DataError, match="no class 'water': it has none"):
        open_data(own / "others", tmp_path, classes=["water"])


def test_some_classes_of_a_known_set_are_enough_and_none_is_passed_over(tmp_path, capsys):
    assert len(set(RESISC45_CLASSES)) == 45
    rng = np.random.default_rng(0)
    for name in ("ship", "airport", "farmland"):
        (tmp_path / "NWPU-RESISC45" / name).mkdir(parents=True)
        picture(rng, 256, 80).save(tmp_path / "NWPU-RESISC45" / name / f"{name}_001.jpg")
    store = open_data("resisc45", tmp_path)
    assert "farmland are no official classes" in capsys.readouterr().out
    assert (
        store.meta["classes"] == ["airport", "ship", "farmland"] and store.title == "NWPU-RESISC45"
    )
    assert open_data("resisc45", tmp_path, classes=["ship"]).meta["classes"] == ["ship"]


def test_training_images_without_labels_are_those_of_the_labelled_set(own, tmp_path):
    image_folder_store(own / "photos", tmp_path / "photos", size=16)
    profile = open_profile("paper", tmp_path)
    store, split = profile.labelled(str(tmp_path / "photos"))
    some = profile.unlabelled("train", (store, split))
    np.testing.assert_array_equal(some.images, store.images[split.train])
    assert some.labels is None and some.title == "photos"
    assert "labels unused" in some.provenance["subset"]
    with pytest.raises(ValueError, match="give one"):
        profile.unlabelled("train")


def test_a_list_of_ones_own_splits_the_set(own, tmp_path):
    store = image_folder_store(own / "photos", tmp_path / "photos", size=16)
    parts = ["train", "val", "test"] * (len(store) // 3)
    lines = [f"{name},{part}" for name, part in zip(store.names, parts, strict=True)]
    (tmp_path / "split.csv").write_text("\n".join(["name,split", *lines]))
    profile = open_profile("paper", tmp_path)
    _, split = profile.labelled(str(store.path), split=str(tmp_path / "split.csv"))
    assert split.val.tolist() == list(range(1, len(store), 3))


def test_a_classifier_is_not_asked_about_other_data_than_its_own(own, printed, tmp_path):
    (checkpoint,) = own.glob("own/final_supervised_model_from*.pth")
    _, metadata = load(checkpoint)
    store = image_folder_store(own / "photos", tmp_path / "photos", size=24)
    assert data_of(metadata, checkpoint, own / "stores/photos")[0].title == "photos"
    for what in (store.path, own / "others"):
        with pytest.raises(DataError, match=r"was trained on photos|has no labels"):
            data_of(metadata, checkpoint, what, tmp_path)
