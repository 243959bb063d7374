"""Settings and controls: what is held out, shifted or taken away is exactly that; and pictures."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, JpegImagePlugin

from src import figures
from src.data.images import CLASSES
from src.data.splits import Split
from src.encoders import Classifier, build_encoder
from src.finetune import FinetuneConfig, finetune
from src.ood import (
    DETECTORS,
    SHIFTS,
    accuracy_rejection,
    controls,
    evaluate,
    hold_out,
    jpeg,
    metrics,
    pixel_statistics,
    reliability,
    shifts,
)
from src.ood.settings import encode_jpeg, match_channel_statistics
from src.results.tables import both_readings, runs_table
from src.runs import RunSettings
from src.runs.runtime import pick

FLOAT32 = pick("cpu", "float32")


def scenes(n=6, size=64, seed=0):
    """Smooth images of many tones, with a hard edge each."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    down, across = rng.uniform(1, 4, (n, 1, 1)), rng.uniform(1, 4, (n, 1, 1))
    waves = np.sin(2 * np.pi * (down * rows + across * columns))
    edge = columns > rng.uniform(0.3, 0.7, (n, 1, 1))
    tones = rng.uniform(60, 130, (n, 1, 1, 3))
    return (tones + 25 * waves[..., None] + 30 * edge[..., None]).astype(np.uint8)


def classifier(size=16):
    torch.manual_seed(0)
    return Classifier(build_encoder("custom_cnn", image_size=size, dropout=0.2), 4, 0.2)


# --- near ---


@pytest.fixture
def labelled():
    labels = np.arange(200) % 10
    order = np.random.default_rng(0).permutation(200)
    return labels, Split(np.sort(order[:120]), np.sort(order[120:160]), np.sort(order[160:]))


@pytest.mark.parametrize("held", list(itertools.combinations(CLASSES, 2))[::9], ids="+".join)
def test_held_out_classes_are_in_no_part_of_the_split(labelled, held):
    labels, split = labelled
    h = hold_out(labels, split, list(CLASSES), held)
    assert h.classes == [name for name in CLASSES if name not in held]
    names_before, names_after = np.array(CLASSES)[labels[h.rows]], np.array(h.classes)[h.labels]
    np.testing.assert_array_equal(names_after, names_before)
    assert sorted(set(h.labels)) == list(range(8))
    for name in ("train", "val", "test"):  # an image stays in the part it was in
        part, original = getattr(h.split, name), getattr(split, name)
        expected = original[~np.isin(np.array(CLASSES)[labels[original]], held)]
        np.testing.assert_array_equal(h.rows[part], expected)
    np.testing.assert_array_equal(h.id_test, h.rows[h.split.test])
    assert set(h.ood_test) == {row for row in split.test if CLASSES[labels[row]] in held}


@pytest.mark.parametrize("held", [(), ("Ocean",), ("River", "Ocean"), CLASSES[:9]])
def test_impossible_hold_outs_are_refused(labelled, held):
    with pytest.raises(ValueError, match="keep two at least"):
        hold_out(*labelled, list(CLASSES), held)


def test_a_classifier_trains_without_the_held_out_classes(labelled, tmp_path):
    labels, split = labelled
    images = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), dtype=np.uint8)
    h = hold_out(labels, split, list(CLASSES), ("River", "SeaLake"))
    config = FinetuneConfig(phases=(0, 0, 1), batch_size=32, image_size=16)
    settings = RunSettings(runtime=FLOAT32)
    data = images[h.rows], h.labels, h.split, h.classes
    run = finetune(*data, config, tmp_path, settings=settings)
    assert run.test_logits.shape == (len(h.id_test), 8)


# --- shifts ---


def distance(a, b):
    return np.abs(a.astype(float) - b.astype(float)).mean()


def test_every_shift_has_three_strengths_each_farther_from_the_picture():
    images = scenes()
    shifted = shifts(images)
    assert list(shifted) == [f"{kind} {level}" for kind in SHIFTS for level in (1, 2, 3)]
    assert all((x.shape, x.dtype) == (images.shape, np.uint8) for x in shifted.values())
    for kind in SHIFTS:
        far = [distance(images, shifted[f"{kind} {level}"]) for level in (1, 2, 3)]
        assert 0 < far[0] < far[1] < far[2], (kind, far)


def test_each_shift_does_what_it_is_called():
    images = scenes()
    shifted = shifts(images)
    names = ("blur 3", "blur 1", "as it is", "noise 1", "noise 3")
    pictures = {"as it is": images, **shifted}
    gradients = [np.abs(np.diff(pictures[n].astype(float), axis=2)).mean() for n in names]
    assert np.all(np.diff(gradients) > 0)
    assert shifted["haze 3"].mean() > images.mean() + 20
    assert shifted["brightness 1"].mean() == pytest.approx(1.2 * images.mean(), rel=0.02)
    stripes = shifted["stripes 2"].astype(float) - images
    assert stripes.std(axis=1).max() < 1  # the same all the way down a column, but for rounding
    # and another in every column: σ 0.03 is 7.7 of 255
    assert stripes.mean(axis=1).std(axis=1).min() > 3
    assert np.std(shifted["noise 3"].astype(float) - images) == pytest.approx(25.5, rel=0.03)


def test_blur_stays_within_an_image_and_a_channel():
    images = np.zeros((3, 16, 16, 3), np.uint8)
    images[1, ..., 1] = 200
    np.testing.assert_array_equal(shifts(images, ["blur"])["blur 3"], images)


def test_shifts_are_seeded_and_do_not_depend_on_one_another():
    images = scenes()
    everything = shifts(images, seed=1)
    alone = shifts(images, ["stripes"], seed=1)
    assert list(alone) == ["stripes 1", "stripes 2", "stripes 3"]
    np.testing.assert_array_equal(alone["stripes 2"], everything["stripes 2"])
    assert (shifts(images, ["stripes"], seed=2)["stripes 2"] != alone["stripes 2"]).any()


def test_an_unknown_shift_is_refused():
    with pytest.raises(ValueError, match=r"fog.*there are: blur"):
        shifts(scenes(1), ["fog"])


# --- controls ---


def test_jpeg_of_quality_100_is_written_as_eurosats_files_are():
    file = Image.open(encode_jpeg(scenes(1)[0], 100))
    assert all(set(table) == {1} for table in file.quantization.values())
    assert JpegImagePlugin.get_sampling(file) == 2  # 4:2:0
    assert distance(jpeg(scenes()), scenes()) < 2 < distance(jpeg(scenes(), 10), scenes())


def test_matched_images_have_the_means_and_deviations_of_the_others():
    images, like = scenes(40), scenes(30, seed=5) // 2 + 40
    given = pixel_statistics(match_channel_statistics(images, like, seed=3), 64)[:, :6]
    rows = np.random.default_rng(3).integers(30, size=40)
    # but for rounding and clipping
    np.testing.assert_allclose(given, pixel_statistics(like, 64)[rows, :6], atol=0.01)


def test_matching_leaves_a_flat_image_flat():
    flat = match_channel_statistics(np.full((1, 16, 16, 3), 90, np.uint8), scenes(5, 16))
    assert np.ptp(flat, axis=(1, 2)).max() == 0


def test_controls_take_away_one_thing_at_a_time():
    images = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
    like = scenes(20)
    steps = controls(images, like, 64)
    changed = ["re-encoded", "tones", "ground sampling", "tones, ground sampling"]
    assert list(steps) == ["as shipped", *changed]
    assert all(steps[name].shape == (8, 64, 64, 3) for name in changed)
    statistics = {name: pixel_statistics(x, 64).mean(0) for name, x in steps.items()}
    np.testing.assert_allclose(
        statistics["re-encoded"][:3], statistics["as shipped"][:3], atol=0.01
    )
    target = pixel_statistics(like, 64)[:, :6]
    assert np.abs(statistics["tones"][:6] - target.mean(0)).max() < 3 * target.std(0).max()
    # nothing finer than 10 m is left
    assert statistics["ground sampling"][6] < 0.2 * statistics["re-encoded"][6]


def test_ground_sampling_leaves_eight_pixels_of_an_image_77_metres_wide():
    blocks = np.random.default_rng(0).integers(60, 190, (1, 8, 8, 1)).repeat(3, 3)
    images = blocks.repeat(32, 1).repeat(32, 2).astype(np.uint8)
    coarse = controls(images, images, 64)["ground sampling"][0, ..., 0].astype(float)
    centres = coarse.reshape(8, 8, 8, 8)[:, 3:5, :, 3:5].mean((1, 3))
    assert np.corrcoef(centres.ravel(), blocks[0, ..., 0].ravel())[0, 1] > 0.9
    finer = controls(images, images, 64, metres=0.3 * 4)["ground sampling"]
    # 1.2 m is what 64 pixels hold anyway
    assert distance(finer, controls(images, images, 64)["re-encoded"]) < 1


# --- all together ---


@pytest.fixture(scope="module")
def evaluated():
    model = classifier()
    train, images, labels = scenes(60, 16), scenes(12, 16, seed=1), np.arange(60) % 4
    sets = {"dark": scenes(9, 24, seed=2) // 8, "noise": shifts(images, ["noise"])["noise 3"]}
    result = evaluate(model, train, images, sets, 3, FLOAT32, seed=1, train_labels=labels)
    return model, train, images, sets, labels, result


def test_evaluate_runs_every_detector_on_every_set(evaluated):
    *_, result = evaluated
    assert list(result.id_scores) == list(result.ood_scores) == list(DETECTORS)
    assert result.ood_scores.groupby("set").size().to_dict() == {"dark": 9, "noise": 12}
    assert (list(result.auroc.index), list(result.auroc)) == (list(DETECTORS), ["dark", "noise"])
    assert result.auroc.loc["vim", "noise"] == result.table.loc[("noise", "vim", "auroc"), "value"]
    assert result.auroc.notna().all(axis=None)
    assert result.auroc.loc["pixel_mahalanobis"].min() > 0.95


def test_sets_do_not_depend_on_one_another(evaluated):
    model, train, images, sets, labels, result = evaluated
    alone = evaluate(model, train, images, sets["noise"], 3, FLOAT32, 1, labels)
    of_noise = result.ood_scores.loc["noise"]
    pd.testing.assert_frame_equal(alone.ood_scores, of_noise, check_names=False)
    pd.testing.assert_frame_equal(alone.table, result.table.loc["noise"])
    name = "vim"
    again = metrics(alone.id_scores[name], alone.ood_scores[name], seed=1)
    pd.testing.assert_frame_equal(again, alone.table.loc[name], check_names=False)


# --- the study, and the pictures ---


def test_pictures_can_be_drawn(evaluated):
    _, _, images, sets, _, result = evaluated
    noise = result.ood_scores.loc["noise"]
    confidence, right = np.linspace(0.3, 1, 40), np.arange(40) % 3 > 0
    energies = {
        "dark": (sets["dark"], result.ood_scores.loc["dark"]["energy"]),
        "in": (images, noise["energy"]),
    }
    drawn = [
        figures.score_heatmap({"far": result.auroc}),
        figures.extremes(energies, n=3),
        figures.reliability_diagram({"as trained": reliability(confidence, right)}),
        figures.rejection_curves({"energy": accuracy_rejection(-confidence, right)}),
        figures.msp_both_ways(both_readings(runs_table([]))),
        figures.score_histograms(result.id_scores, noise),
    ]
    for figure in drawn:
        file = io.BytesIO()
        figure.savefig(file, dpi=50)
        assert Image.open(file).size > (100, 100)
    heat, extremes = drawn[:2]
    assert len(heat.axes[0].texts) == 30 + 1  # and the kind of setting
    names = [axis.get_ylabel() for axis in extremes.axes[::3]]
    assert names == ["dark\nleast", "dark\nmost", "in\nleast", "in\nmost"]
    most = np.argmax(energies["dark"][1])
    np.testing.assert_array_equal(extremes.axes[3].images[0].get_array(), sets["dark"][most])


def test_curves_of_a_run_without_a_probe_are_drawn():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [4.0, 3.5]})
    loss, knn = figures.pretraining_curves(history, 64, 0.5).axes
    assert list(loss.lines[0].get_ydata()) == [4.0, 3.5] and len(knn.lines[0].get_ydata()) == 0


def test_a_shown_figure_is_saved_with_its_coordinates_and_its_place_is_printed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    figure = figures.samples(scenes(2), ["a", "b"])
    coordinates = pd.DataFrame({"x": [0.12345]})
    assert figures.show(figure, tmp_path / "new/folder/a.png", coordinates) is figure
    assert capsys.readouterr().out == "new/folder/a.png\n"
    with Image.open("new/folder/a.png") as image:
        assert image.size > (100, 100)
    assert (tmp_path / "new/folder/a.csv").read_text() == "x\n0.1235\n"
    figures.show(figure, "b.png")
    monkeypatch.chdir(tmp_path / "new")
    figures.show(figure, tmp_path / "c.png")  # in neither the current folder nor the repository
    assert capsys.readouterr().out == f"b.png\n{tmp_path / 'c.png'}\n"
