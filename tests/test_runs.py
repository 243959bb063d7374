"""Whatever ends a run, the same call goes on, and ends with the very weights of a run that nothing
ended.

`make soak` runs the two kill tests at a larger size.
"""

import json
import random
import resource
import signal
import subprocess
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial, wraps

import killable_runs
import numpy as np
import pandas as pd
import pytest
import torch

import src.runs.run
import src.runs.states
from src import checkpoints
from src.data.store import PatchStore
from src.errors import CheckpointError
from src.losses import nt_xent
from src.pretrain import Hooks, PretrainConfig, pretrain, shuffled
from src.runs import Run, RunSettings, Stopped, fingerprint, is_fingerprint_of, table
from src.runs.distributed import World
from src.runs.fingerprints import changed_functions, sampled_fingerprint
from src.runs.runtime import pick, record

TRAININGS = [killable_runs.train_simclr, killable_runs.train_classifier]
TIMES = ["images_per_s", "data_share", "seconds"]  # of a history: all that may differ
# four steps an epoch
CONFIG = PretrainConfig(epochs=3, batch_size=15, image_size=16, projection=(32, 16), seed=1)


def run(out, config=CONFIG, probe=None, loss=nt_xent, **settings):
    return pretrain(
        killable_runs.DATA,
        config,
        out,
        settings=RunSettings(runtime=pick("cpu", "float32"), **settings),
        probe=probe,
        probe_every=1,
        # whatever it does besides, it is that loss: another would be another run
        hooks=Hooks(loss=wraps(nt_xent)(lambda *args: loss(*args))),
    )


def outcome(out):
    """Every tensor of the finished run, and its history."""
    (last,) = out.rglob("last.pth")
    state, about = checkpoints.load(last)
    parts = {
        f"{p}.{k}": t
        for p, tensors in state.items()
        if isinstance(tensors, dict)
        for k, t in flat(tensors)
    }
    return parts, pd.DataFrame(about["history"]).drop(columns=TIMES)


def flat(tree):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", tensor) for inner, tensor in flat(value))
        else:
            yield key, value


def assert_same(out, whole):
    (tensors, history), (expected, expected_history) = outcome(out), outcome(whole)
    assert tensors.keys() == expected.keys() and len(tensors) > 30
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)
    pd.testing.assert_frame_equal(history, expected_history, check_exact=True)
    (status,) = [json.loads(file.read_text())["status"] for file in out.rglob("run.json")]
    assert status == "finished"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Each training in one go, in a process of its own like those that are killed."""
    folders = {train: tmp_path_factory.mktemp(train.__name__) for train in TRAININGS}
    for process in [killable_runs.start(train, out) for train, out in folders.items()]:
        process.join()
        assert process.exitcode == 0
    return folders


def where(out):
    """Epoch and step of the newest state on disk."""
    files = list(out.rglob("last.json"))
    try:
        about = json.loads(files[0].read_text()) if files else {}
    except FileNotFoundError:  # just being replaced
        about = {}
    return (about["epoch"], about["step"]) if about else None


# Power cut, out of memory, pre-emption without warning: SIGKILL


@pytest.mark.parametrize("train", TRAININGS)
def test_kills_at_random_moments_change_not_one_bit(train, whole, tmp_path):
    rng, reached = random.Random(5), []
    for kill in range(20 if killable_runs.LARGE else 5):
        process = killable_runs.start(train, tmp_path, pause=0.02, save_steps=1)
        while where(tmp_path) in (None, *reached[-1:]):  # it gets a little further than before
            assert process.exitcode is None, f"it was done after {kill} kills: nothing more to kill"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        assert process.exitcode is None
        process.kill()
        process.join()
        reached.append(where(tmp_path))
    # on and on, from within epochs too
    assert reached == sorted(set(reached)) and any(step for _, step in reached)
    process = killable_runs.start(train, tmp_path)
    process.join()
    assert process.exitcode == 0
    assert_same(tmp_path, whole[train])


@pytest.mark.parametrize("train", TRAININGS)
@pytest.mark.parametrize("save", [0, 5])
def test_a_kill_in_the_middle_of_a_save_costs_no_state_saved_before(train, save, whole, tmp_path):
    process = killable_runs.start(killable_runs.die_while_saving, train, tmp_path, save)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    states = [
        checkpoints.load(file)[1]
        for file in tmp_path.rglob("*.pth")
        if file.name in ("last.pth", "previous.pth")
    ]
    assert len(states) == min(
        save, 1
    )  # the newest is being replaced: the one before it is there, and whole
    train(tmp_path)
    assert_same(tmp_path, whole[train])


# Pre-emption with a warning, and the notebook's stop button


def test_sigterm_saves_and_ends_the_command_line_and_the_same_command_goes_on(
    tmp_path, command, run_module
):
    patches = ((str(n), None, image) for n, image in enumerate(killable_runs.DATA))
    store = PatchStore.write(tmp_path / "store", patches, {"kind": "noise"})
    arguments = [
        "src.pretrain",
        store.path,
        "--out",
        tmp_path / "models",
        "--runs",
        tmp_path / "runs",
        "--epochs",
        9,
        "--batch-size",
        6,
        "--image-size",
        16,
        "--device",
        "cpu",
        "--precision",
        "float32",
    ]
    log = tmp_path / "log"
    with open(log, "w") as file:
        process = subprocess.Popen(**command(*arguments), stdout=file, stderr=file)
        history = tmp_path / "runs/custom_cnn_9ep_seed0/history.csv"
        while not history.exists():
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
        process.terminate()
        assert process.wait(20) == 1
    assert "stopped by SIGTERM; saved in" in log.read_text().splitlines()[-1]
    assert "Traceback" not in log.read_text()
    assert table(tmp_path / "runs")["status"].tolist() == ["stopped"]
    assert run_module(*arguments).returncode == 0
    assert table(tmp_path / "runs")["status"].tolist() == ["finished"]
    done = pd.read_csv(history)
    assert done["epoch"].tolist() == list(range(10))


def test_a_signal_in_a_notebook_raises_after_saving_and_the_handlers_are_put_back(tmp_path):
    before, steps = signal.getsignal(signal.SIGINT), iter(range(100))

    def interrupted(*args):
        if next(steps) == 7:
            signal.raise_signal(signal.SIGINT)
        return nt_xent(*args)

    whole = run(tmp_path / "whole")
    with pytest.raises(Stopped, match=r"stopped by SIGINT; saved in .*last.pth"):
        run(tmp_path / "stopped", loss=interrupted)
    assert signal.getsignal(signal.SIGINT) is before
    assert where(tmp_path / "stopped") == (2, 4)  # the eighth step of 3 × 4
    resumed = run(tmp_path / "stopped")
    assert resumed.history["loss"][1:].tolist() == whole.history["loss"][1:].tolist()


def test_a_save_is_due_by_the_clock_too(tmp_path, monkeypatch):
    saves, save = [], Run.save
    monkeypatch.setattr(Run, "save", lambda *args: (saves.append(args[3]["step"]), save(*args)))
    clock = iter(range(0, 100_000, 100))  # every look at the clock is 100 seconds after the last
    monkeypatch.setattr(src.runs.run.time, "monotonic", lambda: next(clock))
    run(tmp_path, save_minutes=5)
    assert len(saves) > 2 and any(0 < step < 4 for step in saves)


def test_a_process_that_does_not_write_is_not_late_for_ever(tmp_path):
    with Run(tmp_path, {}, RunSettings(save_steps=2), World(1, 2)) as second:
        assert [second.due() for _ in range(6)] == [False, True] * 3


# Disks


def test_a_disk_that_fills_up_ends_the_run_with_one_error_and_room_lets_it_go_on(tmp_path):
    whole = run(tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(
        signal.SIGXFSZ, signal.SIG_IGN
    )  # so that the write itself fails, as on a full disk
    biggest = max(file.stat().st_size for file in (tmp_path / "whole").rglob("*.pth"))
    saved = []
    try:
        with pytest.raises(
            CheckpointError,
            match=r"last\.pth could not be written .*make room.*goes on from .*previous",
        ):

            def fill(encoder):  # after the first epoch's state is safe
                saved.append(len(list((tmp_path / "full").rglob("last.pth"))))
                if len(saved) == 3:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (biggest // 2, hard))
                return 0.0

            run(tmp_path / "full", save_minutes=0, probe=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list((tmp_path / "full").rglob("*partial*"))
    resumed = run(tmp_path / "full")
    assert resumed.history["loss"][1:].tolist() == whole.history["loss"][1:].tolist()


def test_a_run_that_will_not_fit_on_the_disk_is_refused_before_it_starts(tmp_path, monkeypatch):
    disk_of(monkeypatch, free=10_000_000)
    with pytest.raises(
        CheckpointError, match=r"checkpoints need 0\.06 GB, free are 0\.01 GB. Make room there"
    ):
        run(tmp_path)


def disk_of(monkeypatch, free):
    """A disk with so many bytes left."""
    usage = src.runs.states.shutil.disk_usage(".")._replace(free=free)
    monkeypatch.setattr(src.runs.states.shutil, "disk_usage", lambda folder: usage)


def stopped_after_two_saves(out):
    calls = iter(range(100))
    with pytest.raises(KeyboardInterrupt):
        loss = lambda *args: stop() if next(calls) == 7 else nt_xent(*args)  # noqa: E731
        run(out, save_steps=2, loss=loss)
    (last,) = out.rglob("last.pth")
    assert last.with_name("previous.pth").exists()
    return last


def stop(*_):
    raise KeyboardInterrupt


def test_a_corrupt_state_is_told_and_the_one_before_it_is_used(tmp_path):
    whole = run(tmp_path / "whole")
    last = stopped_after_two_saves(tmp_path / "hurt")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.warns(
        UserWarning, match=r"last\.pth is damaged .*Trying the state saved before it"
    ):
        resumed = run(tmp_path / "hurt")
    assert resumed.history["loss"][1:].tolist() == whole.history["loss"][1:].tolist()


def test_two_corrupt_states_are_an_error_and_not_a_new_start(tmp_path):
    last = stopped_after_two_saves(tmp_path)
    for file in (last, last.with_name("previous.pth")):
        file.write_bytes(file.read_bytes()[:1000])
    with (
        pytest.warns(UserWarning),
        pytest.raises(CheckpointError, match=r"no state in .* can be read: delete it"),
    ):
        run(tmp_path)


def test_a_state_that_is_not_whole_never_takes_the_place_of_the_good_one(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    last = stopped_after_two_saves(tmp_path / "hurt")
    last.write_bytes(last.read_bytes()[:1000])
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="pulled out"):
        patch.setattr(checkpoints.torch, "save", pulled_out)  # at the first save of the life after
        with pytest.warns(UserWarning, match="Trying the state saved before it"):
            run(tmp_path / "hurt", save_steps=1)
    with pytest.warns(UserWarning, match="Trying the state saved before it"):
        resumed = run(tmp_path / "hurt")
    assert resumed.history["loss"][1:].tolist() == whole.history["loss"][1:].tolist()


def pulled_out(*args):
    raise OSError("pulled out")


@pytest.mark.parametrize(
    "again", [{"resume": False}, {"config": replace(CONFIG, batch_size=20)}], ids=["anew", "other"]
)
def test_a_run_begun_anew_that_dies_at_once_leaves_nothing_of_the_old_one(again, tmp_path):
    first = run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=stop, **again)
    assert {file.name for file in (tmp_path / "runs/custom_cnn_3ep_seed1").iterdir()} == {
        "lock",
        "run.json",
    }
    steps = []
    again = run(tmp_path, loss=lambda *args: steps.append(1) or nt_xent(*args))
    assert len(again.history) == 4 and len(steps) == 12  # all of it, and not the old run's end
    assert first.checkpoint.is_file()


def test_the_short_name_is_that_of_the_run_asked_for_last(tmp_path):
    first, second = (run(tmp_path, replace(CONFIG, seed=seed)) for seed in (1, 2))
    alias = tmp_path / "best_contrastive_model_3Ep.pth"
    assert alias.read_bytes() == second.checkpoint.read_bytes()
    run(tmp_path)
    assert alias.read_bytes() == first.checkpoint.read_bytes() != second.checkpoint.read_bytes()


def test_room_is_asked_for_what_is_still_to_be_written(tmp_path, monkeypatch):
    stopped_after_two_saves(tmp_path)
    partial = tmp_path / "runs/custom_cnn_3ep_seed1/.last.pth.partial-1"
    disk_of(monkeypatch, free=45_000_000)
    partial.write_bytes(b"a save that was killed")
    with pytest.raises(CheckpointError, match=r"checkpoints need 0\.06 GB"):
        run(tmp_path / "new")
    run(tmp_path)  # two of its three states are there
    disk_of(monkeypatch, free=0)
    run(tmp_path)  # it is finished: nothing is written
    assert not partial.exists()


# Two at once, and another environment


def test_two_processes_do_not_train_one_run(tmp_path):
    refused = pytest.raises(CheckpointError, match="another process is training this run")
    with Run(tmp_path / "runs/custom_cnn_3ep_seed1", {}), refused:
        run(tmp_path)
    run(tmp_path)  # the lock goes with its holder


def test_going_on_in_another_environment_is_said(tmp_path, monkeypatch):
    stopped_after_two_saves(tmp_path)
    record = src.pretrain.record
    monkeypatch.setattr(
        src.pretrain, "record", lambda runtime: {**record(runtime), "torch": "9.9", "date": "today"}
    )
    with pytest.warns(
        UserWarning, match=r"another environment \(was, now\): \{'torch': \('2[^']*', '9\.9'\)\}"
    ):
        run(tmp_path)


@pytest.mark.parametrize("asked", ["", "2"])
def test_it_goes_on_with_the_threads_it_was_begun_with_or_says_so(tmp_path, monkeypatch, asked):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    stopped_after_two_saves(tmp_path)  # with one
    try:
        torch.set_num_threads(2)
        if not asked:
            run(tmp_path)
            assert torch.get_num_threads() == 1
            return
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        with pytest.warns(UserWarning, match=r"\{'threads': \('1', '2'\)\}"):
            run(tmp_path)
    finally:
        torch.set_num_threads(1)


def test_an_unknown_way_to_resume_is_refused(tmp_path):
    with pytest.raises(ValueError, match="resume must be 'auto', 'force' or False, not 'yes'"):
        run(tmp_path, resume="yes")


# What a run is


def another_loss(z_i, z_j, temperature):
    return 2 * nt_xent(z_i, z_j, temperature)


def weighted(weights):
    return lambda z_i, z_j, temperature: weights.mean() * nt_xent(z_i, z_j, temperature)


def trained(out, images=killable_runs.DATA, config=CONFIG, hooks=Hooks(), **settings):
    """How many steps it took, and the history's losses."""
    steps = []
    order = wraps(shuffled)(lambda *args: steps.append(1) or shuffled(*args))
    settings = RunSettings(runtime=pick("cpu", "float32"), **settings)
    hooks = replace(hooks, order=order)
    history = pretrain(images, config, out, settings=settings, hooks=hooks).history
    return len(steps), history["loss"][1:].tolist()


def one_pixel(row):
    images = killable_runs.DATA.copy()
    images[row, 3, 2, 1] ^= 1
    return images


@pytest.mark.parametrize(
    "changed",
    [
        {"images": one_pixel(17)},
        {"images": one_pixel(58)},
        {"hooks": Hooks(loss=another_loss)},
        {"hooks": Hooks(loss=weighted(torch.ones(2)))},
    ],
    ids=["a pixel", "another pixel", "the loss", "what the loss holds"],
)
def test_a_finished_run_of_other_pixels_or_another_loss_is_not_handed_back(tmp_path, changed):
    assert trained(tmp_path)[0] == trained(tmp_path, **changed)[0] == 3
    assert trained(tmp_path, **changed)[0] == 0


def test_what_a_hook_has_closed_over_is_part_of_the_run(tmp_path):
    for weight in (1.0, 2.0):
        hooks = Hooks(loss=weighted(torch.full((2,), weight)))
        assert trained(tmp_path, hooks=hooks)[0] == 3
        assert trained(tmp_path, hooks=hooks)[0] == 0


def scaled(z_i, z_j, temperature, *, by=1.0):
    return by * nt_xent(z_i, z_j, temperature)


def with_a_default(weight):
    def loss(z_i, z_j, temperature, *, by=weight):
        return by * nt_xent(z_i, z_j, temperature)

    return loss


class Scaled(torch.nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = torch.nn.Parameter(torch.tensor(float(by)))

    def forward(self, z_i, z_j, temperature):
        return self.by.detach() * nt_xent(z_i, z_j, temperature)


class Object:
    def __init__(self, by):
        self.by = by

    def __call__(self, z_i, z_j, temperature):
        return self.by * nt_xent(z_i, z_j, temperature)


def of_a_global(by):
    names = {"BY": by, "nt_xent": nt_xent}
    exec("def loss(z_i, z_j, temperature):\n    return BY * nt_xent(z_i, z_j, temperature)", names)
    return names["loss"]


def closing_over(value):
    return lambda z_i, z_j, temperature: value and nt_xent(z_i, z_j, temperature)


SPELLINGS = {
    "partial": lambda by: partial(scaled, by=by),
    "object": Object,
    "bound method": lambda by: Object(by).__call__,
    "network": Scaled,
    "keyword default": with_a_default,
    "global": of_a_global,
    "list": lambda by: closing_over([by]),
    "dict": lambda by: closing_over({"by": (by, "x")}),
    "set": lambda by: closing_over({by, "x"}),
    "numpy number": lambda by: closing_over(np.float32(by)),
    "tensor of no axes": lambda by: closing_over(torch.tensor(by)),
    "object within": lambda by: closing_over(Object(by)),
    "function within": lambda by: closing_over(partial(scaled, by=by)),
}


@pytest.mark.parametrize("make", SPELLINGS.values(), ids=SPELLINGS)
def test_what_a_hook_works_with_is_part_of_the_run_in_every_spelling(make):
    first, again, other = (changed_functions(Hooks(loss=make(by))) for by in (1.0, 1.0, 2.0))
    assert first == again != other


def test_functions_that_call_one_another_and_those_without_a_text_have_a_name():
    def other(*args):
        return this(*args)

    def this(*args):
        return other(*args)

    for function in (this, max, torch.relu, print):
        assert changed_functions(Hooks(loss=function)) == changed_functions(Hooks(loss=function))


@pytest.mark.parametrize("what", ["label", "train", "val", "test", "image"])
def test_one_changed_label_row_or_pixel_is_another_fine_tuning(what):
    rng = np.random.default_rng(0)
    known = {
        "image": rng.integers(0, 256, (5000, 4, 4, 3), dtype=np.uint8),
        "label": rng.integers(0, 10, 5000),
        "train": np.arange(4000),
        "val": np.arange(4000, 4500),
        "test": np.arange(4500, 5000),
    }
    name, before = fingerprint(*known.values()), sampled_fingerprint(*known.values())
    assert len(name) == 32 and len(before) == 16
    assert is_fingerprint_of(name, *known.values()) and is_fingerprint_of(before, *known.values())
    for row in rng.integers(0, len(known[what]), 20):
        other = {**known, what: known[what].copy()}
        other[what][row] += 1
        assert not is_fingerprint_of(name, *other.values())


def of_old_code(out):
    """As code wrote it that knew images by 64 rows, and no hooks."""
    for file in (*out.rglob("last.pth"), *out.rglob("previous.pth")):
        state, metadata = checkpoints.load(file)
        del metadata["hooks"]
        metadata["images"] = sampled_fingerprint(killable_runs.DATA)
        checkpoints.save(file, state, metadata)


def test_a_run_begun_by_old_code_goes_on_and_a_finished_one_is_handed_back(tmp_path):
    whole = run(tmp_path / "whole")
    stopped_after_two_saves(tmp_path / "old")
    of_old_code(tmp_path / "old")
    resumed = run(tmp_path / "old")
    assert resumed.history["loss"][1:].tolist() == whole.history["loss"][1:].tolist()
    of_old_code(tmp_path / "old")
    assert trained(tmp_path / "old")[0] == 0


# What is beside the states


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", "7", "\x00" * 90, '{"a": 1}'])
def test_a_damaged_note_stops_no_run_that_has_its_states(tmp_path, content):
    whole = run(tmp_path / "whole")
    last = stopped_after_two_saves(tmp_path / "hurt")
    last.with_name("run.json").write_text(content)
    with pytest.warns(UserWarning, match="damaged") if content != '{"a": 1}' else nullcontext():
        resumed = run(tmp_path / "hurt")
    assert resumed.history["loss"][1:].tolist() == whole.history["loss"][1:].tolist()


NOTES = ["", "[]", "null", '{"status": "running"}', '{"status": 3, "updated": 4, "config": []}']


@pytest.mark.parametrize("content", NOTES)
def test_the_list_shows_the_others_beside_a_damaged_note(tmp_path, content, run_module):
    run(tmp_path / "whole")
    (tmp_path / "hurt").mkdir()
    (tmp_path / "hurt/run.json").write_text(content)
    listed = table(tmp_path).set_index("run")["status"]
    assert listed["hurt"] == "run.json is damaged"
    assert listed["whole/runs/custom_cnn_3ep_seed1"] == "finished"


def test_a_finished_run_needs_no_json_beside_its_checkpoint(tmp_path):
    first = run(tmp_path)
    for file in tmp_path.glob("*.json"):
        file.unlink()
    again = run(tmp_path)
    assert again.checkpoint == first.checkpoint
    alias = checkpoints.load(tmp_path / "best_contrastive_model_3Ep.pth")[1]
    assert json.loads((tmp_path / "best_contrastive_model_3Ep.json").read_text()) == alias


def test_the_data_may_have_been_given_a_title_since(tmp_path):
    known = {"kind": "made", "sha256": "ab"}
    first = run(tmp_path, provenance=known)
    assert run(tmp_path, provenance=known | {"title": "Made"}).checkpoint == first.checkpoint
    other = run(tmp_path, provenance=known | {"sha256": "cd"})  # which is another run
    assert other.checkpoint != first.checkpoint


def test_no_git_is_no_reason_not_to_train(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run(tmp_path)
    versions = checkpoints.load(done.checkpoint)[1]["versions"]
    assert versions["commit"] == "not a git checkout" and versions["torch"]
    monkeypatch.setenv("GIT_COMMIT", "a1b2c3d")
    assert record(pick("cpu"))["commit"] == "a1b2c3d"


# The list of runs


def test_the_list_tells_finished_failed_and_killed_runs_apart(tmp_path, run_module, monkeypatch):
    run(tmp_path / "a")
    with pytest.raises(FloatingPointError):
        run(tmp_path / "b", replace(CONFIG, lr=1e30))
    process = killable_runs.start(
        killable_runs.train_classifier, tmp_path / "c", pause=0.05, save_steps=2
    )
    while not list((tmp_path / "c").rglob("last.json")):
        time.sleep(0.01)
    assert table(tmp_path / "c")["status"].tolist() == ["running"]
    process.kill()
    process.join()
    listed = table(tmp_path).set_index("run")
    status = {name.split("/")[0]: status for name, status in listed["status"].items()}
    assert (
        status["a"] == "finished" and status["c"] == "killed" and status["b"].startswith("failed: ")
    )
    assert listed.loc["a/runs/custom_cnn_3ep_seed1", ["kind", "epoch", "epochs"]].tolist() == [
        "simclr",
        3,
        3,
    ]
    printed = run_module("src.runs", tmp_path)
    assert (
        printed.returncode == 0
        and "killed" in printed.stdout
        and "custom_cnn_3ep_seed1" in printed.stdout
    )
    assert "no folder" in run_module("src.runs", tmp_path / "nowhere").stderr
