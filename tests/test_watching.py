"""A long run can be watched: a line an epoch, curves, a list of what goes on, TensorBoard."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

import src.runs.watching
from src.data.splits import Split
from src.data.store import PatchStore
from src.finetune import FinetuneConfig, finetune
from src.losses import nt_xent
from src.pretrain import Hooks, PretrainConfig, pretrain
from src.probes import spread
from src.runs import RunSettings
from src.runs.listing import progress
from src.runs.runtime import pick
from src.runs.watching import Watch, duration

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
CONFIG = PretrainConfig(epochs=3, batch_size=8, image_size=16, projection=(32, 16), seed=1)


def run(out, hooks=Hooks(), **settings):
    settings = RunSettings(runtime=pick("cpu", "float32"), **settings)
    return pretrain(IMAGES, CONFIG, out, settings=settings, hooks=hooks)


def size(file):
    with Image.open(file) as image:
        return image.size


@pytest.fixture
def always_drawn(monkeypatch):
    monkeypatch.setattr(src.runs.watching, "REDRAW_SECONDS", -1)


def test_a_log_has_one_line_an_epoch_and_no_bar(tmp_path, command):
    patches = ((str(n), n % 2, image) for n, image in enumerate(IMAGES))
    store = PatchStore.write(tmp_path / "store", patches, {"kind": "noise", "classes": ["a", "b"]})
    where = ["--out", tmp_path / "models", "--runs", tmp_path / "runs", "--device", "cpu"]
    size = ["--epochs", 4, "--batch-size", 8, "--image-size", 16]
    probe = ["--probe", store.path, "--probe-every", 2]
    with open(tmp_path / "log", "w") as log:
        done = subprocess.run(
            **command("src.pretrain", store.path, *where, *size, *probe), stdout=log, stderr=log
        )
    lines = (tmp_path / "log").read_text().split("\n")
    assert done.returncode == 0, lines
    assert not any("\r" in line for line in lines) and len(lines) <= 4 + 4
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [int(re.match(r"epoch (\d+)/4: loss ", line)[1]) for line in epochs] == [1, 2, 3, 4]
    assert ["kNN" in line for line in epochs] == [False, True, False, True]
    assert [line.rsplit(", ")[-1].split()[-1] for line in epochs] == [
        "left",
        "left",
        "left",
        "done",
    ]


def test_curves_are_drawn_anew_and_shown_every_epoch(tmp_path, always_drawn):
    shown, sizes = [], []

    def show(figure):
        shown.append(figure)
        (file,) = tmp_path.rglob("curves.png")
        sizes.append(size(file))

    run(tmp_path, show=show)
    assert len(shown) == 3 and all(isinstance(figure, Figure) for figure in shown)
    points = [len(figure.axes[0].lines[0].get_xdata()) for figure in shown]
    assert points == [1, 2, 3] and len(set(sizes)) == 1


def test_fine_tuning_has_curves_too(tmp_path, always_drawn):
    labels = np.arange(24) % 2
    split = Split(*np.split(np.arange(24), [16, 20]))
    config = FinetuneConfig(phases=(0, 0, 2), batch_size=8, image_size=16)
    settings = RunSettings(runtime=pick("cpu", "float32"))
    finetune(IMAGES, labels, split, ["a", "b"], config, tmp_path, settings=settings)
    (file,) = tmp_path.rglob("curves.png")
    assert size(file)[0] > 500


def test_a_short_run_is_not_kept_waiting_by_a_picture(tmp_path):
    run(tmp_path)
    assert not list(tmp_path.rglob("curves.png"))


def test_the_history_and_the_list_tell_of_the_first_epoch_before_it_ends(tmp_path):
    seen = []

    def loss(z_i, z_j, temperature):
        if list(tmp_path.rglob("last.pth")):
            (file,) = tmp_path.rglob("history.csv")
            seen.append((pd.read_csv(file), progress(tmp_path)))
        return nt_xent(z_i, z_j, temperature)

    run(tmp_path, Hooks(loss=loss), save_steps=1)
    history, going = seen[0]
    assert history["epoch"].tolist() == [0, 1] and history["loss"].iloc[1] > 0
    (row,) = going.to_dict("records")
    assert row["epoch"] == "0/3" and row["left"] == "after an epoch" and row["trend"] == "▁"
    assert row["loss"] == pytest.approx(history["loss"].iloc[1], abs=1e-4)
    history, going = seen[-1]  # in the last of three epochs
    (row,) = going.to_dict("records")
    assert row["epoch"] == "2/3" and row["left"].endswith(" s") and len(row["trend"]) == 3
    assert row["saved"] in ("0 s ago", "1 s ago")
    assert progress(tmp_path).empty  # it is finished


@pytest.mark.parametrize("content", [None, "", "\x00\x00", "epoch,loss\n", "epoch,loss\nx,y\n"])
def test_a_damaged_history_stops_nobody_from_watching(tmp_path, content):
    (tmp_path / "a").mkdir()
    note = {"status": "running", "updated": "2026-01-02", "epoch": 1, "config": {"epochs": 3}}
    (tmp_path / "a/run.json").write_text(json.dumps(note))
    if content is not None:
        (tmp_path / "a/history.csv").write_text(content)
    (row,) = progress(tmp_path).to_dict("records")
    assert row["epoch"] == "1/3" and row["left"] == "after an epoch"


def test_the_list_is_watched_until_nothing_goes_on(tmp_path, run_module):
    run(tmp_path)
    done = run_module("src.runs", tmp_path, "--watch", 0.1)
    assert done.returncode == 0 and "no run goes on below" in done.stdout


def test_tensorboard_gets_every_number_of_every_epoch(tmp_path):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = run(tmp_path, tensorboard=True).history
    (folder,) = tmp_path.rglob("tensorboard")
    events = loading.EventAccumulator(str(folder)).Reload()
    written = [(event.step, event.value) for event in events.Scalars("loss")]
    assert written == [(n, pytest.approx(history["loss"][n])) for n in (1, 2, 3)]
    assert "images_per_s" in events.Tags()["scalars"]


def test_tensorboard_that_is_not_there_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        run(tmp_path, tensorboard=True)
    assert not list(tmp_path.rglob("last.pth"))


@pytest.mark.parametrize(
    ("embeddings", "cosine", "rank"),
    [
        (np.eye(8), 0, 8),  # as far apart as can be
        (np.ones((8, 4)), 1, 1),  # collapsed into one point
        (np.repeat([[1, 0, 0], [-1, 0, 0]], 4, 0), -1 / 7, 1),  # two ends of one direction
    ],
)
def test_a_collapse_can_be_told(embeddings, cosine, rank):
    measured = spread(3 * embeddings)
    assert measured["mean_cosine"] == pytest.approx(cosine, abs=1e-6)
    assert measured["effective_rank"] == pytest.approx(rank, abs=1e-5)


def test_mean_cosine_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(1, 1, (9, 5))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(9) for j in range(9) if i != j]
    assert spread(embeddings)["mean_cosine"] == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 00 min"), (98_000, "27 h 13 min")],
)
def test_durations_are_read_by_people(seconds, text):
    assert duration(seconds) == text


def test_the_time_left_is_known_where_a_run_goes_on_at_the_end_of_an_epoch(tmp_path, capsys):
    row = {"epoch": 1, "loss": 4.0, "images_per_s": 10, "data_share": 0.0, "seconds": 120.0}
    with Watch(tmp_path, {}, RunSettings(), steps=30, done=10, speak=True) as watch:
        watch.epoch(3, [row], "views")
    assert capsys.readouterr().out.strip().endswith(", 4 min left")
