"""What cannot be what it says is refused where it comes in: at every door, in all its spellings."""

import numpy as np
import pytest
import torch

from src import checkpoints
from src.augmentations import SPECTRAL, SimCLRAugmentation
from src.checks import Range, check_images, check_labels, check_number, check_phases, check_split
from src.data.splits import Split
from src.data.store import PatchStore
from src.embed import embed_to_files
from src.encoders import Classifier, build_encoder
from src.finetune import FinetuneConfig, finetune
from src.ood import calibration, evaluate, fit_temperature, hold_out, mc_dropout, odin, penultimate
from src.ood.settings import match_channel_statistics, shifts
from src.pretrain import PretrainConfig, pretrain
from src.pretrain import views as pair
from src.probes import embed, knn_probe
from src.runs import RunSettings
from src.runs.runtime import pick

FLOAT32 = pick("cpu", "float32")
RNG = np.random.default_rng(0)
GOOD = RNG.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
SPLIT = Split(np.arange(6), np.arange(6, 9), np.arange(9, 12))
MODEL = Classifier(build_encoder("custom_cnn", image_size=16), 3).eval()


def holed(value):
    images = GOOD / np.float32(255)
    images[7, 3, 3, 1] = value
    return images


BAD = {
    "float32 to 255": GOOD.astype(np.float32),
    "float64 to 255": GOOD.astype(np.float64),
    "float16 to 255": GOOD.astype(np.float16),
    "bfloat16 to 255": torch.from_numpy(GOOD).bfloat16(),
    "torch to 255": torch.from_numpy(GOOD).float(),
    "reflectance 0 to 10,000": 40 * GOOD.astype(np.float32),
    "negative": holed(-0.5),
    "one NaN": holed(np.nan),
    "infinite": holed(np.inf),
    "uint16 to 255": GOOD.astype(np.uint16),
    "uint16 of torch": torch.from_numpy(GOOD.astype(np.uint16)),
    "uint16 to 65,535": GOOD.astype(np.uint16) * 257,
    "masked": np.ma.masked_equal(GOOD, 7),
    "masked floats": np.ma.masked_greater(GOOD / 255, 0.9),
    "int32": GOOD.astype(np.int32),
    "int16": GOOD.astype(np.int16),
    "bool": GOOD > 99,
    "complex": GOOD.astype(complex),
    "text": GOOD.astype(str),
    "objects": GOOD.astype(object),
    "one image": GOOD[0],
    "no pixels": GOOD[:, :0],
}
SOUND = {
    "uint8": GOOD,
    "torch": torch.from_numpy(GOOD),
    "list": list(GOOD),
    "float32": GOOD / np.float32(255),
    "float64": GOOD / 255,
    "float16": (GOOD / 255).astype(np.float16),
    "bfloat16": (torch.from_numpy(GOOD) / 255).bfloat16(),
    "digital numbers": GOOD.astype(np.uint16) * 20,
    "black": np.zeros((2, 16, 16, 3), np.uint16),
    "snow and cloud": np.full((2, 16, 16, 3), 14_000, np.uint16),
    "a mask that hides none": np.ma.masked_greater(GOOD / 255, 2),
    "with gradients": (torch.from_numpy(GOOD) / 255).requires_grad_(),
}


def run_pretrain(images, out, **config):
    config = {"epochs": 1, "batch_size": 4, "image_size": 16, "projection": (8,)} | config
    settings = RunSettings(runtime=FLOAT32)
    return pretrain(images, PretrainConfig(**config), out, settings=settings)


def run_finetune(images, out, labels=LABELS, split=SPLIT, classes=("a", "b", "c"), **config):
    config = {"phases": (0, 0, 1), "batch_size": 2, "image_size": 16} | config
    settings = RunSettings(runtime=FLOAT32)
    return finetune(
        images, labels, split, classes, FinetuneConfig(**config), out, settings=settings
    )


def views(images, out):
    batch = torch.as_tensor(images)
    batch = batch.permute(0, 3, 1, 2) if batch.dim() == 4 else batch
    return SimCLRAugmentation(16)(batch, torch.Generator())


DOORS = {
    "SimCLRAugmentation": views,
    "pretrain": run_pretrain,
    "finetune": run_finetune,
    "mc_dropout": lambda images, out: mc_dropout(MODEL, images, 2, runtime=FLOAT32),
    "embed": lambda images, out: embed(MODEL, images, 16, FLOAT32),
    "penultimate": lambda images, out: penultimate(MODEL, images, FLOAT32),
    "odin": lambda images, out: odin(MODEL, images, FLOAT32),
    "knn_probe": lambda images, out: knn_probe(images, LABELS, *SPLIT_ROWS, 16, FLOAT32),
    "evaluate, train": lambda images, out: evaluate(MODEL, images, GOOD, GOOD, 2, FLOAT32),
    "evaluate, in": lambda images, out: evaluate(MODEL, GOOD, images, GOOD, 2, FLOAT32),
    "evaluate, out": lambda images, out: evaluate(MODEL, GOOD, GOOD, images, 2, FLOAT32),
    "evaluate, sets": lambda images, out: evaluate(
        MODEL, GOOD, GOOD, {"a": GOOD, "b": images}, 2, FLOAT32
    ),
}
SPLIT_ROWS = (SPLIT.train, SPLIT.val)


@pytest.mark.parametrize("images", BAD.values(), ids=BAD)
def test_what_cannot_be_images_is_refused(images):
    with pytest.raises(ValueError, match=r"^pictures"):
        check_images(images, "pictures")


@pytest.mark.parametrize("images", SOUND.values(), ids=SOUND)
def test_what_can_be_images_is_not(images):
    assert len(check_images(images)) == len(images)


@pytest.mark.parametrize("kind", ["float32 to 255", "uint16 to 255", "one NaN"])
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_every_door_looks(tmp_path, door, kind):
    with pytest.raises(ValueError, match=r"float images lie in \[0, 1\]|digital numbers"):
        door(BAD[kind], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []  # before anything is written


def test_one_bad_image_far_down_is_found():
    many = np.zeros((3000, 64, 64, 3), np.float32)  # more than one block
    many[-1, 0, 0, 0] = 3
    with pytest.raises(ValueError, match="0 … 3"):
        check_images(many)


def test_tiles_of_a_dark_lake_are_mapped_although_a_set_of_them_would_be_refused():
    lake = np.full((2, 16, 16, 3), 90, np.uint16)
    with pytest.raises(ValueError, match="digital numbers"):
        penultimate(MODEL, lake, FLOAT32)
    assert np.isfinite(penultimate(MODEL, lake, FLOAT32, checked=True)).all()


def test_a_training_step_does_not_look_at_the_pixels_again():
    dark = torch.full((4, 3, 16, 16), 90, dtype=torch.uint16)  # a whole batch of dark water
    augment = SimCLRAugmentation(16)
    with pytest.raises(ValueError, match="digital numbers"):
        augment(dark, torch.Generator())
    assert all(view.isfinite().all() for view in pair(dark, augment, torch.Generator()))


@pytest.mark.parametrize("door", [shifts, lambda x: match_channel_statistics(x, GOOD)])
def test_settings_made_of_8_bit_images_take_no_other(door):
    with pytest.raises(ValueError, match="expected uint8 images, got float64"):
        door(GOOD / 255)


def test_a_store_of_8_bit_pictures_in_16_bits_is_not_embedded(tmp_path):
    patches = ((str(n), None, image.astype(np.uint16)) for n, image in enumerate(GOOD))
    PatchStore.write(tmp_path / "store", patches, {"kind": "grey"})
    config = {"encoder": "custom_cnn", "in_channels": 3, "image_size": 16, "dropout": 0.1}
    state = {"encoder": checkpoints.clean_state(MODEL.encoder)}
    file = checkpoints.save(tmp_path / "a.pth", state, {"config": config})
    with pytest.raises(ValueError, match="digital numbers"):
        embed_to_files(tmp_path / "store", file, tmp_path / "out", runtime=FLOAT32)


# --- labels ---

WRONG_LABELS = {
    "−1": np.where(np.arange(12) == 7, -1, LABELS),
    "−100": np.where(np.arange(12) == 7, -100, LABELS),
    "as many as classes": np.where(np.arange(12) == 7, 3, LABELS),
    "1.7": np.where(np.arange(12) == 7, 1.7, LABELS),
    "NaN": np.where(np.arange(12) == 7, np.nan, LABELS),
    "infinite": np.where(np.arange(12) == 7, np.inf, LABELS),
    "int8": np.where(np.arange(12) == 7, -1, LABELS).astype(np.int8),
    "uint8": np.where(np.arange(12) == 7, 255, LABELS).astype(np.uint8),
    "list": [0, 1, 2, 0, 1, 2, 0, -1, 2, 0, 1, 2],
    "torch": torch.tensor([0, 1, 2, 0, 1, 2, 0, -1, 2, 0, 1, 2]),
}
NO_LABELS = {
    "bool": LABELS > 1,
    "text": LABELS.astype(str),
    "one-hot": np.eye(3)[LABELS],
    "objects": [None, *LABELS[1:]],
    "masked": np.ma.masked_equal(LABELS, 2),
    "too many": np.append(LABELS, 0),
    "too few": LABELS[:-1],
}
LABEL_DOORS = {
    "calibration": lambda labels, out: calibration(np.zeros((12, 3)), labels),
    "fit_temperature": lambda labels, out: fit_temperature(np.zeros((12, 3)), labels),
    "finetune": lambda labels, out: run_finetune(GOOD, out, labels=labels),
    "evaluate": lambda labels, out: evaluate(
        MODEL, GOOD, GOOD, GOOD, 2, FLOAT32, train_labels=labels
    ),
}


@pytest.mark.parametrize("labels", WRONG_LABELS.values(), ids=WRONG_LABELS)
@pytest.mark.parametrize("door", LABEL_DOORS.values(), ids=LABEL_DOORS)
def test_a_label_that_is_no_class_is_refused_with_its_row(tmp_path, door, labels):
    with pytest.raises(ValueError, match=r"row 7 has .*expected 0 to 2"):
        door(labels, tmp_path)


@pytest.mark.parametrize("labels", NO_LABELS.values(), ids=NO_LABELS)
@pytest.mark.parametrize("door", LABEL_DOORS.values(), ids=LABEL_DOORS)
def test_what_are_no_labels_is_refused(tmp_path, door, labels):
    with pytest.raises(ValueError, match=r"one class number an image|\d+ for 12 images|masked"):
        door(labels, tmp_path)


def test_a_missing_label_is_no_class_to_hold_out():
    with pytest.raises(ValueError, match="row 7 has -1"):
        hold_out(WRONG_LABELS["−1"], SPLIT, ["a", "b", "c"], ("c",))


@pytest.mark.parametrize(
    "spell",
    [
        *(list, torch.tensor, lambda x: torch.tensor(x).bfloat16()),
        *(lambda x: x.astype(np.int8), lambda x: x.astype(np.float32)),
    ],
)
def test_labels_of_any_type_are_the_same_labels(spell):
    found = check_labels(spell(LABELS), 3, 12)
    assert found.dtype == np.int64 and (found == LABELS).all()


@pytest.mark.parametrize("classes", [(1, 2, 3), ("a", "b", "b"), ("a", None, "c"), "abc"])
def test_classes_that_would_be_no_checkpoint_are_refused_before_training(tmp_path, classes):
    config = FinetuneConfig(phases=(0, 0, 1), batch_size=2, image_size=16)
    settings = RunSettings(runtime=FLOAT32)
    with pytest.raises(ValueError, match=r"^classes"):
        finetune(GOOD, LABELS, SPLIT, classes, config, tmp_path / "out", settings=settings)
    with pytest.raises(ValueError, match=r"^classes"):
        hold_out(LABELS, SPLIT, classes, ("a",))
    assert list(tmp_path.iterdir()) == []


# --- splits ---

R = np.arange
SPLITS = {
    "test is train": (R(6), R(6, 9), R(6)),
    "val within train": (R(6), R(3, 6), R(9, 12)),
    "twice": (np.array([0, 1, 2, 2, 3]), R(6, 9), R(9, 12)),
    "beyond the end": (R(6), R(6, 9), R(9, 13)),
    "negative": (R(6), R(6, 9), np.array([-1])),
    "floats": (R(6).astype(float), R(6, 9), R(9, 12)),
    "a mask": (R(12) < 6, R(6, 9), R(9, 12)),
    "no val": (R(6), [], R(9, 12)),
    "no test": (R(6), R(6, 9), np.array([])),
    "no train": (R(0), R(6, 9), R(9, 12)),
    "text": (["a"], R(6, 9), R(9, 12)),
}


@pytest.mark.parametrize("parts", SPLITS.values(), ids=SPLITS)
def test_a_split_that_is_none_is_refused_before_training(tmp_path, parts):
    with pytest.raises(ValueError, match=r"^split"):
        run_finetune(GOOD, tmp_path / "out", split=Split(*parts))
    assert list(tmp_path.iterdir()) == []


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    with pytest.raises(ValueError, match="all of one class"):
        run_finetune(GOOD, tmp_path, labels=np.where(R(12) < 6, 0, LABELS))


def test_rows_and_labels_as_lists_or_narrow_types_train_the_same_network(tmp_path):
    whole = run_finetune(GOOD, tmp_path / "a")
    split = Split(list(SPLIT.train), SPLIT.val.astype(np.int32), SPLIT.test.astype(np.uint8))
    other = run_finetune(GOOD, tmp_path / "b", labels=list(LABELS.astype(np.int8)), split=split)
    assert np.array_equal(whole.test_logits, other.test_logits)


def test_check_split_gives_the_rows():
    assert all(part.dtype == np.int64 for part in check_split([0], [1], [2], 3))


# --- numbers ---


@pytest.mark.parametrize("value", [0, -1, 1.5, np.nan, np.inf, "2", None, True, [1]])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ValueError, match="epochs must be a whole number at least 1, got"):
        check_number(value, "epochs", Range(1, whole=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epochs", v) for v in (0, -2, 1.5, np.nan, "3", None)),
        *(("lr", v) for v in (0, -1e-3, np.nan, np.inf, "1e-3")),
        *(("temperature", v) for v in (0, -1, np.nan)),
        *(("weight_decay", v) for v in (-0.1, np.nan)),
        *(("batch_size", v) for v in (2.5, np.nan, "4", None)),
        *(("dropout", v) for v in (-0.1, 1, np.nan)),
        *(("seed", v) for v in (-1, 0.5)),
        *(("image_size", v) for v in (0, 15.5)),
        ("projection", (0,)),
    ],
)
def test_a_config_of_no_training_is_refused_before_it(tmp_path, name, value):
    with pytest.raises(ValueError, match=name):
        run_pretrain(GOOD, tmp_path / "out", **{name: value})
    if name in ("lr", "weight_decay", "batch_size", "dropout", "seed", "image_size"):
        with pytest.raises(ValueError, match=name):
            run_finetune(GOOD, tmp_path / "out", **{name: value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "phases", [(-1, 1, 2), (1, 1), (1, 1, 1, 1), (0.5, 0.5, 1), (0, 0, 0), "101", None, 3]
)
def test_phases_are_three_counts(tmp_path, phases):
    with pytest.raises(ValueError, match="phases"):
        check_phases(phases)
    with pytest.raises(ValueError, match="phases"):
        run_finetune(GOOD, tmp_path, phases=phases)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("scale_lr", v) for v in ("no", 1, None)),
        *(("projection", v) for v in (8, "8", None)),
        ("augmentation", None),
        *(("augmentation", {"rotate": v}) for v in ("no", 1)),
        *(("augmentation", {"jitter": v}) for v in ((0.4,) * 3, (-1, 0, 0, 0), (0, 0, 0, 2), "x")),
        *(("augmentation", {"band_jitter": v}) for v in ((0.2,), (-1, 0), 0.2)),
        *(("augmentation", v) for v in ({"typo": 1}, {"size": 8}, ["vflip"])),
    ],
)
def test_a_switch_or_a_strength_that_is_none_is_refused_before_training(tmp_path, name, value):
    told = name if name != "augmentation" else r"rotate|jitter|changes no SimCLRAugmentation"
    with pytest.raises(ValueError, match=told):
        run_pretrain(GOOD, tmp_path / "out", **{name: value})
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_and_whole_floats_train_the_same_network(tmp_path):
    plain = {"epochs": 1, "batch_size": 4, "image_size": 16, "seed": 2, "projection": (8,)}
    numpy = {**dict.fromkeys(plain, None), "epochs": np.int64(1), "batch_size": np.int32(4)}
    numpy |= {"image_size": 16.0, "seed": np.float32(2), "projection": [np.uint8(8)]}
    first, second = (
        run_pretrain(GOOD, tmp_path / "a", **plain),
        run_pretrain(GOOD, tmp_path / "b", **numpy),
    )
    assert first.history["loss"].equals(second.history["loss"])
    assert checkpoints.load(second.checkpoint)[1]["config"]["image_size"] == 16
    phases = tuple(np.array([0, 0, 1]))
    tuned = run_finetune(GOOD, tmp_path / "c", phases=phases, lr=np.float64(1e-4), seed=0.0)
    assert np.array_equal(tuned.test_logits, run_finetune(GOOD, tmp_path / "d").test_logits)


@pytest.mark.parametrize("size", [0, -3, 2.5, np.nan, None, "9"])
def test_a_batch_size_of_no_images_is_refused(tmp_path, size):
    config = {"encoder": "custom_cnn", "in_channels": 3, "image_size": 16, "dropout": 0.1}
    state = {"encoder": checkpoints.clean_state(MODEL.encoder)}
    file = checkpoints.save(tmp_path / "a.pth", state, {"config": config})
    for door in (
        lambda: embed(MODEL, GOOD, 16, FLOAT32, batch_size=size),
        lambda: mc_dropout(MODEL, GOOD, 2, runtime=FLOAT32, batch_size=size),
        lambda: odin(MODEL, GOOD, FLOAT32, batch_size=size),
        lambda: embed_to_files(tmp_path, file, tmp_path / "out", batch_size=size),
    ):
        with pytest.raises(ValueError, match="batch_size must be a whole number"):
            door()


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf, "1"])
def test_a_temperature_is_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature must be a number above 0"):
        calibration(np.zeros((12, 3)), LABELS, temperature)
    with pytest.raises(ValueError, match="temperature must be a number above 0"):
        odin(MODEL, GOOD, FLOAT32, temperature=temperature)


@pytest.mark.parametrize("settings", [{"save_minutes": np.nan}, {"save_steps": -1}])
def test_a_run_that_would_never_be_saved_is_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="save_"):
        pretrain(
            GOOD,
            PretrainConfig(batch_size=4, image_size=16),
            tmp_path / "out",
            settings=RunSettings(runtime=FLOAT32, **settings),
        )


@pytest.mark.parametrize(
    "change",
    [
        {"hflip": 1.5},
        {"vflip": -0.1},
        {"noise_p": np.nan},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 0.2)},
        {"scale": (0.5, 2.0)},
        {"ratio": (1.0, 0.5)},
        {"blur_sigma": (-1, 2.0)},
        {"size": 0},
    ],
    ids=str,
)
def test_an_augmentation_that_cannot_be_is_refused_when_it_is_made(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SimCLRAugmentation(**change)


# --- bands ---


def test_bands_whose_statistics_are_not_known_are_refused_before_training(tmp_path):
    images = np.zeros((12, 16, 16, 13), np.uint16) + 900
    without = {"in_channels": 13, "augmentation": SPECTRAL}
    with pytest.raises(ValueError, match="13-channel images, but mean and std have 3"):
        run_pretrain(images, tmp_path / "out", **without)
    with pytest.raises(ValueError, match=r"of others measure .* src\.data\.statistics STORE"):
        run_finetune(images, tmp_path / "out", in_channels=13)
    with pytest.raises(ValueError, match="images have 3 channels, the config says in_channels=12"):
        run_finetune(GOOD, tmp_path / "out", in_channels=12)
    assert list(tmp_path.iterdir()) == []


def test_bands_with_statistics_of_their_own_are_pretrained_on(tmp_path):
    images = RNG.integers(0, 4000, (12, 16, 16, 5)).astype(np.uint16)
    own = {**SPECTRAL, "mean": (0.2,) * 5, "std": (0.1,) * 5}
    assert len(run_pretrain(images, tmp_path, in_channels=5, augmentation=own).history) == 2


def test_a_batch_of_one_that_resnets_batch_norm_cannot_normalise_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size 1 for 6 training images: choose from 2 to 6"):
        run_finetune(GOOD, tmp_path / "out", encoder="resnet50", batch_size=1)
