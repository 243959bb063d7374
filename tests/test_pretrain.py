"""Pretraining learns, repeats itself bit by bit, survives being killed, and stops rather than save
nonsense.
"""

import itertools
import json
import math
from dataclasses import asdict, replace
from functools import wraps

import numpy as np
import pytest
import torch

import src.pretrain
from src import checkpoints
from src.errors import CheckpointError
from src.losses import nt_xent
from src.pretrain import Hooks, PretrainConfig, pretrain, shuffled, untrained, views
from src.runs import RunSettings
from src.runs.loop import Schedule
from src.runs.runtime import pick

FLOAT32 = pick("cpu", "float32")
CONFIG = PretrainConfig(epochs=3, batch_size=8, image_size=16, projection=(64, 32), seed=1)


def textures(n, size=24, seed=0):
    """Stripes of random direction, width and colours: images that can be told from one another in
    any crop.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    waves = [np.sin(a * x + b * y) for a, b in rng.uniform(-2, 2, (n, 2))]
    colours = rng.uniform(0, 127, (2, n, 1, 1, 3))
    return (colours[0] + 127 + colours[1] * np.stack(waves)[..., None]).astype(np.uint8)


IMAGES = textures(20)  # two batches of eight, and four images left over in every epoch


def run(out, config=CONFIG, images=IMAGES, probe=None, probe_every=5, hooks=Hooks(), **settings):
    settings = RunSettings(runtime=FLOAT32, **settings)
    return pretrain(
        images, config, out, settings=settings, probe=probe, probe_every=probe_every, hooks=hooks
    )


def cosine(step, steps, lr):
    """Learning rate of a step of a run of one epoch."""
    return Schedule(1, steps, 8, lr).lr_at(1, step)


def state_of(file, part="encoder"):
    return checkpoints.load(file)[0][part]


def equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One whole run, with a probe that says how often it has been called."""
    calls = []

    def probe(encoder):
        calls.append(encoder)
        return len(calls) / 10

    config = replace(CONFIG, epochs=5)
    images = IMAGES.copy()
    out = tmp_path_factory.mktemp("models")
    return (
        run(out, config, images, probe=probe, probe_every=2, provenance={"kind": "textures"}),
        out,
        images,
    )


# What a run does


def test_training_reduces_the_loss(tmp_path):
    # colours kept, so that four epochs are plenty whatever the seed
    config = replace(CONFIG, epochs=4, batch_size=16, augmentation={"jitter_p": 0.0, "gray_p": 0.0})
    history = run(tmp_path, config, textures(48)).history
    assert history["loss"][4] < history["loss"][1] - 0.4
    # a guess among the other 31 views is where an encoder that has learnt nothing stands
    assert history["loss"][4] < math.log(31) - 0.8


def test_the_images_are_only_read(done):
    np.testing.assert_array_equal(done[2], IMAGES)


def test_the_history_has_a_row_for_the_untrained_encoder_and_one_an_epoch(done):
    history = done[0].history
    assert list(history.columns) == [
        "epoch",
        "knn",
        "mean_cosine",
        "effective_rank",
        "loss",
        "lr",
        "images_per_s",
        "data_share",
        "seconds",
    ]
    assert history["epoch"].tolist() == [0, 1, 2, 3, 4, 5]
    assert math.isnan(history["loss"][0]) and np.isfinite(history["loss"][1:]).all()
    assert (history[["images_per_s", "seconds"]][1:] > 0).all(axis=None)
    assert history["data_share"][1:].between(0, 1).all()
    assert history["lr"][1:].is_monotonic_decreasing
    assert history["lr"].iloc[-1] == cosine(9, 10, CONFIG.lr)


def test_the_probe_sees_the_untrained_encoder_every_second_epoch_and_the_last(done):
    probed = done[0].history.dropna(subset="knn")
    assert probed["epoch"].tolist() == [0, 2, 4, 5]
    assert probed["knn"].tolist() == [0.1, 0.2, 0.3, 0.4]


def test_the_probe_at_epoch_0_sees_what_untrained_gives(tmp_path):
    seen = []
    run(
        tmp_path,
        replace(CONFIG, epochs=1),
        probe=lambda e: seen.append(checkpoints.clean_state(e)) or 0.0,
    )
    assert equal(seen[0], untrained(CONFIG).state_dict())
    assert not equal(seen[1], seen[0])


def test_the_probe_does_not_change_the_training(tmp_path):
    def meddling(encoder):
        encoder.eval()
        torch.rand(7)
        np.random.default_rng(0)
        return 0.0

    plain = run(tmp_path / "plain")
    assert equal(
        run(tmp_path / "probed", probe=meddling).encoder.state_dict(), plain.encoder.state_dict()
    )


def test_the_best_epoch_lies_under_its_full_name_and_its_alias(done):
    result, out, _ = done
    losses = result.history["loss"][1:]
    assert result.checkpoint.parent == out
    expected = f"best_contrastive_model_5Ep_8BS_Loss{losses.min():.4f}".replace(".", "_")
    assert (
        result.checkpoint.name.startswith(f"{expected}_20") and result.checkpoint.suffix == ".pth"
    )
    alias = out / "best_contrastive_model_5Ep.pth"
    assert alias.read_bytes() == result.checkpoint.read_bytes()
    assert json.loads(alias.with_suffix(".json").read_text())["epoch"] == losses.idxmin()
    assert (
        len(list(out.iterdir())) == 5
    )  # best and alias, each with its .json, and runs: nothing temporary is left


def test_the_encoder_handed_back_is_the_best_epochs_in_eval_mode(done):
    result, out, _ = done
    assert equal(result.encoder.state_dict(), state_of(out / "best_contrastive_model_5Ep.pth"))
    assert not any(module.training for module in result.encoder.modules())


def test_best_is_the_epoch_of_the_lowest_loss_not_the_last(tmp_path):
    losses, epochs = iter([3.0, 3.0, 1.0, 1.0, 2.0, 2.0]), []  # two steps an epoch: 2 is the best
    hooks = Hooks(loss=lambda *args: 0 * nt_xent(*args) + next(losses))
    probe = lambda e: epochs.append(checkpoints.clean_state(e)) or 0.0  # noqa: E731
    result = run(tmp_path, probe=probe, probe_every=1, hooks=hooks)
    assert checkpoints.load(result.checkpoint)[1]["epoch"] == 2
    assert equal(result.encoder.state_dict(), epochs[2]) and not equal(epochs[2], epochs[3])
    assert "_Loss1_0000_" in result.checkpoint.name


def test_the_checkpoint_says_how_it_was_made(done):
    result, _, _ = done
    about = checkpoints.load(result.checkpoint)[1]
    assert about["kind"] == "simclr" and about["data"] == {"kind": "textures"}
    assert about["config"]["seed"] == 1 and about["config"]["epochs"] == 5
    assert about["versions"]["precision"] == "float32"
    assert about["metrics"]["loss"] == result.history["loss"].min()
    assert checkpoints.load_encoder(result.checkpoint, expect="custom_cnn")[0].image_size == 16


def test_every_epoch_takes_every_image_at_most_once_in_another_order(tmp_path, monkeypatch):
    epochs, real = [], src.pretrain.batches
    monkeypatch.setattr(
        src.pretrain,
        "batches",
        lambda images, rows, device: (
            epochs.append(rows.flatten().tolist()) or real(images, rows, device)
        ),
    )
    run(tmp_path)
    for rows in epochs:
        assert len(rows) == 16 == len(set(rows)) and set(rows) <= set(range(20))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert set().union(*epochs) == set(
        range(20)
    )  # what one epoch leaves over is not left over for good


def test_the_two_views_of_a_step_differ_and_no_step_repeats_them(tmp_path):
    pairs, one_image = [], np.repeat(IMAGES[:1], 20, axis=0)  # only the augmentation can differ
    hooks = Hooks(pairs=lambda *args: pairs.append(views(*args)) or pairs[-1])
    run(tmp_path, images=one_image, hooks=hooks)
    seen = [view for pair in pairs for view in pair]
    assert len(seen) == 12
    assert all(not torch.equal(a, b) for n, a in enumerate(seen) for b in seen[:n])


# Repeatable


def test_two_runs_of_one_seed_agree_bit_by_bit_and_another_seed_does_not(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    other = run(tmp_path / "c", replace(CONFIG, seed=2))
    assert equal(first.encoder.state_dict(), second.encoder.state_dict())
    assert first.history["loss"][1:].tolist() == second.history["loss"][1:].tolist()
    assert not equal(first.encoder.state_dict(), other.encoder.state_dict())
    assert not set(first.history["loss"][1:]) & set(other.history["loss"][1:])


def test_untrained_follows_from_the_seed_alone():
    torch.manual_seed(123)
    first = untrained(CONFIG)
    torch.manual_seed(456)
    assert equal(untrained(CONFIG).state_dict(), first.state_dict())
    assert not equal(untrained(replace(CONFIG, seed=2)).state_dict(), first.state_dict())


def stopped_after(last):
    """Hooks that end the run as a kill would, after this epoch."""

    @wraps(shuffled)  # it is that order: another would be another run
    def order(count, seed, epoch):
        if epoch > last:
            raise KeyboardInterrupt
        return shuffled(count, seed, epoch)

    return Hooks(order=order)


@pytest.mark.parametrize("augmentation", [{}, {"scale": (0.5, 1.0)}], ids=["defaults", "changed"])
def test_resuming_goes_on_after_the_last_state_saved(tmp_path, augmentation):
    config, probing = replace(CONFIG, augmentation=augmentation), {"probe_every": 1}
    whole = run(tmp_path / "whole", config, probe=lambda e: 0.5, **probing)
    with pytest.raises(KeyboardInterrupt):
        stop = stopped_after(2)
        run(tmp_path / "killed", config, probe=lambda e: 0.5, hooks=stop, save_minutes=0, **probing)
    probed = []
    resumed = run(
        tmp_path / "killed", config, probe=lambda e: probed.append(e) or 0.5, probe_every=1
    )
    assert len(probed) == 1  # epoch 3 alone: epochs 0 to 2 were not done again
    assert equal(resumed.encoder.state_dict(), whole.encoder.state_dict())
    assert resumed.history["loss"][1:].tolist() == whole.history["loss"][1:].tolist()
    assert resumed.history["knn"].tolist() == [0.5] * 4


def test_a_finished_run_is_handed_back_as_it_is(tmp_path, capsys):
    first = run(tmp_path)
    again = run(tmp_path, hooks=stopped_after(0))
    assert equal(again.encoder.state_dict(), first.encoder.state_dict())
    assert again.history.equals(first.history) and again.checkpoint == first.checkpoint
    assert "finished already" in capsys.readouterr().out


def test_a_finished_run_whose_checkpoint_was_deleted_writes_it_again(tmp_path):
    first = run(tmp_path)
    first.checkpoint.unlink()
    again = run(tmp_path)
    assert equal(
        checkpoints.load_encoder(again.checkpoint)[0].state_dict(), first.encoder.state_dict()
    )


def test_without_resume_a_saved_run_is_not_continued(tmp_path):
    other = replace(CONFIG, lr=0.1)  # continuing it would be refused
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", other, hooks=stopped_after(2), save_minutes=0)
    again = run(tmp_path / "a", resume=False)
    assert equal(again.encoder.state_dict(), run(tmp_path / "b").encoder.state_dict())


CHANGES = [
    {"lr": 1e-4},
    {"projection": (32, 32)},
    {"augmentation": {"hflip": 0.0}},
    {"temperature": 0.1},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_an_unfinished_run_of_another_config_is_not_resumed_unless_forced(tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, hooks=stopped_after(1), save_minutes=0)
    changed = replace(CONFIG, **change)
    with pytest.raises(
        CheckpointError, match=rf"another config or other data \(was, now\).*{next(iter(change))}"
    ):
        run(tmp_path, changed)
    (told,) = [json.loads(file.read_text()) for file in tmp_path.rglob("run.json")]
    assert told["status"] == "stopped" and told["config"] == json.loads(json.dumps(asdict(CONFIG)))
    if "projection" not in change:  # other shapes cannot be forced
        with pytest.warns(UserWarning, match=f"as forced.*{next(iter(change))}"):
            result = run(tmp_path, changed, resume="force")
        assert next(iter(change)) in checkpoints.load(result.checkpoint)[1]["forced"][0]


def test_an_unfinished_run_is_not_continued_on_other_images(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, hooks=stopped_after(1), save_minutes=0)
    with pytest.raises(CheckpointError, match=r"other data \(was, now\).*images"):
        run(tmp_path, images=textures(20, seed=5))


def test_a_finished_run_of_another_config_makes_room_for_a_new_one_and_keeps_its_checkpoint(
    tmp_path,
):
    first = run(tmp_path)
    second = run(tmp_path, replace(CONFIG, lr=1e-4))
    assert first.checkpoint.is_file() and second.checkpoint != first.checkpoint
    assert not equal(first.encoder.state_dict(), second.encoder.state_dict())


# What stops a run


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_last_good_checkpoint(
    tmp_path, value
):
    calls = []

    def breaking(*args):
        calls.append(None)
        return nt_xent(*args) * (value if len(calls) == 3 else 1)  # the first step of epoch 2 alone

    with pytest.raises(
        FloatingPointError, match=r"loss of epoch 2 is (nan|inf).*lower learning rate than 0\.001"
    ):
        run(tmp_path, hooks=Hooks(loss=breaking), save_minutes=0)
    (last,) = tmp_path.rglob("last.pth")
    state, about = checkpoints.load(last)
    assert (about["epoch"], about["step"]) == (2, 0) and len(about["history"]) == 2  # rows 0 and 1
    assert all(torch.isfinite(tensor).all() for tensor in state["encoder"].values())


def test_a_learning_rate_that_blows_the_weights_up_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss of epoch [12] is (nan|inf)"):
        run(tmp_path, replace(CONFIG, lr=1e30))


@pytest.mark.parametrize("batch_size", [0, 1, 21])
def test_a_batch_that_cannot_be_filled_or_contrasted_is_refused(tmp_path, batch_size):
    with pytest.raises(
        ValueError, match=f"batch_size {batch_size} for 20 images: choose from 2 to 20"
    ):
        run(tmp_path, replace(CONFIG, batch_size=batch_size))
    assert list(tmp_path.iterdir()) == []


def test_the_whole_data_set_can_be_one_batch(tmp_path):
    assert len(run(tmp_path, replace(CONFIG, epochs=1, batch_size=20)).history) == 2


def test_images_of_other_channels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images have 4 channels, the config says in_channels=3"):
        run(tmp_path, images=np.zeros((20, 16, 16, 4), np.uint8))


def test_the_command_line_fails_in_one_line(tmp_path, run_module, one_error_line):
    line = one_error_line(
        run_module("src.pretrain", tmp_path / "nowhere", "--out", tmp_path / "models")
    )
    assert "nowhere' is no data: expected eurosat" in line
    assert list(tmp_path.iterdir()) == []


# The schedule


def test_cosine_starts_at_lr_falls_all_the_way_and_never_reaches_zero():
    rates = [cosine(step, 50, 1e-3) for step in range(50)]
    assert rates[0] == 1e-3
    assert all(earlier > later for earlier, later in itertools.pairwise(rates))
    assert 0 < rates[-1] < 1e-5
    assert cosine(25, 50, 1e-3) == pytest.approx(5e-4)
    assert rates == [cosine(step, 50, 1e-3) for step in range(50)]  # no memory of earlier calls


def test_cosine_is_torchs_schedule_step_by_step():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=37)
    for step in range(37):
        assert cosine(step, 37, 3e-3) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()


def test_warm_up_rises_in_a_straight_line_to_the_rate_from_which_the_cosine_falls():
    schedule = Schedule(3, 10, 8, 1e-3, warmup_steps=5)
    rates = [schedule.lr_at(1 + step // 10, step % 10) for step in range(30)]
    assert rates[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert rates[5:] == [cosine(step, 25, 1e-3) for step in range(25)]
    assert [schedule.lr_at(1 + step // 10, step % 10) for step in range(30)] == rates


def rates_and_decay(monkeypatch, tmp_path, **options):
    seen, real = [], torch.optim.Adam.step

    def step(self, *args, **kwargs):
        seen.extend((group["lr"], group["weight_decay"]) for group in self.param_groups)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    run(tmp_path, replace(CONFIG, **options))
    return seen


def test_the_configs_rate_warm_up_and_decay_reach_the_optimizer(monkeypatch, tmp_path):
    options = {"lr": 1e-3, "scale_lr": True, "warmup_epochs": 1.5, "weight_decay": 0.1}
    seen = rates_and_decay(monkeypatch, tmp_path, **options)
    assert {decay for _, decay in seen} == {0.1}
    highest = 1e-3 * math.sqrt(8 / 64)
    expected = [highest / 3, 2 * highest / 3, *(cosine(step, 3, highest) for step in range(3))]
    assert [rate for rate, _ in seen][:2] == pytest.approx(expected[:2])
    assert [rate for rate, _ in seen][3:] == pytest.approx(expected[2:])


def test_weight_decay_is_adamws_and_changes_what_is_learnt(tmp_path):
    encoders = {
        decay: run(tmp_path / str(decay), replace(CONFIG, weight_decay=decay)).encoder
        for decay in (0.0, 0.5)
    }
    lengths = {d: sum(p.norm() for p in e.parameters()) for d, e in encoders.items()}
    assert lengths[0.5] < lengths[0.0]


@pytest.mark.parametrize("warmup", [-1, 3, 4])
def test_a_warm_up_as_long_as_the_run_is_refused(tmp_path, warmup):
    with pytest.raises(ValueError, match="warmup_epochs"):
        run(tmp_path, replace(CONFIG, warmup_epochs=warmup))


def test_a_run_begun_before_an_option_existed_goes_on_with_it_off_alone(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, hooks=stopped_after(1), save_minutes=0)
    (last,) = tmp_path.rglob("last.pth")
    state, metadata = checkpoints.load(last)
    del metadata["config"]["weight_decay"], metadata["config"]["warmup_epochs"]
    checkpoints.save(last, state, metadata)
    with pytest.raises(CheckpointError, match="weight_decay"):
        run(tmp_path, replace(CONFIG, weight_decay=0.1))
    assert len(run(tmp_path).history) == 4


def test_every_step_gets_its_own_rate_of_the_one_cosine_over_all_epochs(tmp_path, monkeypatch):
    rates, real = [], torch.optim.Adam.step

    def step(self, *args, **kwargs):
        rates.extend(group["lr"] for group in self.param_groups)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    run(tmp_path)
    assert rates == [cosine(n, 6, CONFIG.lr) for n in range(6)]


def test_a_weight_that_is_not_finite_stops_training_though_the_loss_is(tmp_path):
    encoders, calls = [], []

    def probe(encoder):
        encoders.append(encoder)
        return 0.5

    def loss(z_i, z_j, temperature):
        calls.append(1)
        if len(calls) == 4:  # the last step of the second epoch: no loss is computed from it
            next(encoders[0].parameters()).data[0] = torch.nan
        return nt_xent(z_i, z_j, temperature)

    with pytest.raises(FloatingPointError, match=r"weight is NaN or infinite after epoch 2"):
        run(tmp_path, probe=probe, hooks=Hooks(loss=loss), save_steps=2)
    assert not list(tmp_path.glob("*.pth"))
