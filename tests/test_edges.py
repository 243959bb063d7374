"""What a machine does at its edges: no room, two at once, a plain locale."""

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import killable
import numpy as np
import pandas as pd
import pytest
import torch

import src.runs.states
from src import checkpoints
from src.data.demo import make_demo
from src.data.store import PatchStore
from src.embed import embed_to_files
from src.encoders import build_encoder
from src.errors import CheckpointError
from src.ood import metrics
from src.results import metrics_as_json, read_records, write_record
from src.runs.runtime import pick

FLOAT32 = pick("cpu", "float32")
CONFIG = {"encoder": "custom_cnn", "in_channels": 3, "image_size": 8, "dropout": 0.1}
VERSIONS = {"hardware": "a card", "date": "2026-01-02"}


@contextmanager
def full_disk(limit):
    """No file can grow beyond so many bytes, and a write says so as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    state = {"encoder": checkpoints.clean_state(build_encoder("custom_cnn", image_size=8))}
    known = {"config": CONFIG, "kind": "simclr", "history": [], "versions": VERSIONS}
    return checkpoints.save(tmp_path_factory.mktemp("models") / "é best.pth", state, known)


@pytest.fixture
def store(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    patches = ((f"patch {n}", n % 2, image) for n, image in enumerate(images))
    meta = {"kind": "noise", "classes": ["dry", "wet"]}
    return PatchStore.write(tmp_path / "store", patches, meta).path


# --- no room ---


def test_room_for_features_is_asked_for_first(tmp_path, store, checkpoint, monkeypatch):
    usage = src.runs.states.shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(src.runs.states.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"array of features needs .*make room"):
        embed_to_files(store, checkpoint, tmp_path / "out", runtime=FLOAT32)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_fills_up_ends_embedding_with_an_error_and_no_half_file(
    tmp_path, store, checkpoint
):
    with full_disk(20_000), pytest.raises(OSError):
        embed_to_files(store, checkpoint, tmp_path / "out", runtime=FLOAT32, batch_size=7)
    assert list((tmp_path / "out").iterdir()) == []
    features, _ = embed_to_files(store, checkpoint, tmp_path / "out", runtime=FLOAT32)
    assert np.load(features).shape == (40, 256)


def test_a_checkpoint_is_whole_or_as_it_was(tmp_path, checkpoint):
    state, known = checkpoints.load(checkpoint)
    file = checkpoints.save(tmp_path / "a.pth", state, known)
    before = file.read_bytes()
    with full_disk(len(before) // 2):
        with pytest.raises(CheckpointError, match=r"a\.pth could not be written .*: make room"):
            checkpoints.save(file, state | {"more": state["encoder"]}, known)
        with pytest.raises(CheckpointError, match=r"b\.pth could not be written"):
            checkpoints.save(tmp_path / "b.pth", state, known)
        with pytest.raises(CheckpointError, match=r"c\.pth could not be written .*: make room"):
            checkpoints.copy(file, tmp_path / "c.pth")
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"a.pth", "a.json"}


def test_a_record_is_whole_or_as_it_was(tmp_path, checkpoint):
    file = write_record(tmp_path, checkpoint, note="first")
    before = file.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(OSError):
        write_record(tmp_path, checkpoint, note="second" * 999)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_a_record_needs_no_json_beside_the_checkpoints(tmp_path, checkpoint):
    alone = tmp_path / "alone.pth"
    alone.write_bytes(checkpoint.read_bytes())
    record = json.loads(write_record(tmp_path / "records", alone).read_text())
    assert record["config"] == CONFIG
    assert record["checkpoint"] == "alone.pth"


@pytest.mark.parametrize(
    "known",
    [{"history": None}, {"history": "abc"}, {"history": [{"seconds": None}]}, {"config": [1]}, {}],
    ids=str,
)
def test_a_checkpoint_of_no_run_is_told_before_a_record_is_written(tmp_path, known):
    whole = {"config": CONFIG, "kind": "simclr", "history": [], "versions": VERSIONS}
    file = checkpoints.save(tmp_path / "a.pth", {}, whole | known if known else {})
    with pytest.raises(CheckpointError, match=r"a\.pth is of no run"):
        write_record(tmp_path / "records", file)
    assert not (tmp_path / "records").exists()


def test_a_record_without_an_interval_is_json(tmp_path, checkpoint):
    table = pd.concat({"energy": metrics([0.0, 1.0], [2.0])}, names=["score", "metric"])
    scores = metrics_as_json(table)
    assert scores["energy"]["fpr95"] == [0.0, None, None]
    assert scores["energy"]["auroc"][0] == 1.0 and scores["energy"]["auroc"][1] < 0.5
    file = write_record(tmp_path, checkpoint, ood={"scores": scores})
    assert "NaN" not in file.read_text()
    (read,) = read_records(tmp_path)
    assert read["ood"]["scores"] == scores
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path, checkpoint, ood=float("nan"))


# --- two at once ---


def make_small(root):
    make_demo(root, bigearthnet=1, eurosat_per_class=1, ucmerced_per_class=2, progress=False)


def test_two_that_want_the_demo_first_both_get_it(tmp_path):
    processes = [killable.start(make_small, tmp_path / "demo") for _ in range(2)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert json.loads((tmp_path / "demo/demo.json").read_text())["bigearthnet"] == 1


def test_a_demo_whose_note_is_damaged_is_made_again(tmp_path):
    make_small(tmp_path / "demo")
    (tmp_path / "demo/demo.json").write_text('{"seed"')
    make_small(tmp_path / "demo")
    assert json.loads((tmp_path / "demo/demo.json").read_text())["seed"] == 0


def test_partial_files_of_one_process_never_share_a_name(tmp_path):
    first, second = (checkpoints.replacing(tmp_path / "a.json") for _ in range(2))
    assert first.partial != second.partial and first.partial.name.startswith(".a.json.partial-")


# --- a plain locale ---

PLAIN = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
# as `python -m …`, one after the other: to start Python for each takes seconds
COMMANDS = """
import importlib, json, sys
for words in json.loads(sys.argv[1]):
    module, *sys.argv = words[0], *words
    try:
        importlib.import_module(module).main()
    except SystemExit as ended:
        print("ended", module, ascii(ended.code))
"""


def test_commands_run_in_any_locale(tmp_path, store):
    models, runs = tmp_path / "models", tmp_path / "runs"
    sizes = ("--batch-size", 8, "--image-size", 8, "--epochs", 1, "--runs", runs)
    commands = [
        *([module, "--help"] for module in ("src.pretrain", "src.embed", "src.results.__main__")),
        ["src.pretrain", store, "--out", models, *sizes],
        ["src.runs.__main__", runs],
        ["src.embed", "nowhere", "--checkpoint", "é.pth", "--out", tmp_path],
    ]
    words = json.dumps([[str(word) for word in command] for command in commands])
    environment = {**os.environ, **PLAIN, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONIOENCODING", None)
    call = [sys.executable, "-c", COMMANDS, words]
    done = subprocess.run(call, env=environment, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told = done.stdout.decode("ascii")
    assert told.count("usage:") == 3 and told.count("ended") == 4
    assert "best epoch:" in told and "finished" in told
    assert "ended src.embed 'error: no checkpoint \\xe9.pth" in told


# --- devices ---


@pytest.mark.parametrize("device", [torch.device("cpu"), "cpu"])
def test_a_device_is_picked_by_its_name_or_itself(device):
    assert pick(device).device == torch.device("cpu")
