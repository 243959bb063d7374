"""Fine-tuning: stages open when they should and not before, selection sees val alone, and the
result is the file's.
"""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import src.encoders.starting
import src.finetune
from src import checkpoints
from src.data.splits import Split
from src.encoders import Classifier, build_encoder
from src.encoders.starting import check_fits, starting_classifier, starting_points
from src.errors import CheckpointError
from src.finetune import FinetuneConfig, finetune, open_stages, phase_table, set_open
from src.probes import embed
from src.runs import RunSettings
from src.runs.loop import Loop
from src.runs.runtime import pick

FLOAT32 = pick("cpu", "float32")
CLASSES = ["rows", "columns", "plain"]
CONFIG = FinetuneConfig(phases=(0, 0, 2), batch_size=8, lr=1e-3, image_size=16, seed=1)
N_STAGES = 4  # three of the encoder, and the head


def patterned(n, size=16, seed=0):
    """Red stripes, green checks and plain blue, of random brightness and noise: no flip or turn
    mixes them up.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    y, x = np.mgrid[:size, :size]
    images = rng.normal(60, 15, (n, size, size, 3))
    for image, label in zip(images, labels, strict=True):
        image[..., label] += [y % 4 < 2, (x + y) % 2, np.ones_like(x)][label] * rng.uniform(60, 160)
    return images.clip(0, 255).astype(np.uint8), labels


IMAGES, LABELS = patterned(72)
SPLIT = Split(train=np.arange(40), val=np.arange(40, 57), test=np.arange(57, 72))


def run(
    out,
    config=CONFIG,
    *,
    images=IMAGES,
    labels=LABELS,
    split=SPLIT,
    pretrained=None,
    provenance=None,
):
    settings = RunSettings(runtime=FLOAT32, provenance=provenance)
    data = images, labels, split, CLASSES
    return finetune(*data, config, out, pretrained=pretrained, settings=settings)


def equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def each_epoch(monkeypatch, watch):
    """Call watch(model, epoch, "before" or "after") around every epoch of the runs to come."""
    real = Loop.steps

    def steps(loop, batches):
        watch(loop.parts["classifier"], loop.progress.epoch - 1, "before")
        yield from real(loop, batches)
        watch(loop.parts["classifier"], loop.progress.epoch - 1, "after")

    monkeypatch.setattr(Loop, "steps", steps)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    config = replace(CONFIG, phases=(0, 0, 5))
    return run(tmp_path_factory.mktemp("models"), config, provenance={"kind": "patterns"})


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A checkpoint as pretraining leaves it: other weights than any seed starts from, moved
    batch-norm averages.
    """
    torch.manual_seed(99)
    encoder = build_encoder("custom_cnn", 3, 16)
    encoder(torch.randn(16, 3, 16, 16))
    about = {
        "config": {
            "encoder": "custom_cnn",
            "epochs": 7,
            "in_channels": 3,
            "image_size": 16,
            "dropout": 0.1,
        }
    }
    return checkpoints.save(
        tmp_path_factory.mktemp("pretrained") / "best.pth",
        {"encoder": checkpoints.clean_state(encoder)},
        about,
    )


# Which stages are open


@pytest.mark.parametrize(
    ("phases", "opened"),  # how many of the four stages, counted from the head, epoch by epoch
    [
        ((2, 1, 2), [1, 1, 2, 4, 4]),
        ((1, 1, 1), [1, 2, 4]),
        ((0, 0, 3), [4, 4, 4]),
        ((0, 2, 1), [2, 2, 4]),
        ((2, 0, 1), [1, 1, 4]),
        ((0, 2, 0), [2, 2]),
        ((3, 0, 0), [1, 1, 1]),
    ],
)
def test_stages_open_from_the_back_phase_by_phase(phases, opened):
    for epoch, count in enumerate(opened):
        assert list(open_stages(epoch, phases, N_STAGES)) == [0, 1, 2, 3][-count:]


def test_the_studys_recipe_opens_at_epochs_10_and_20_of_100():
    config = FinetuneConfig()
    opened = [len(open_stages(epoch, config.phases, N_STAGES)) for epoch in range(config.epochs)]
    assert opened == [1] * 10 + [2] * 10 + [4] * 80


def test_from_scratch_trains_as_long_with_everything_open_and_ten_times_the_rate():
    config = FinetuneConfig(
        phases=(3, 4, 5), lr=2e-4, batch_size=16, dropout=0.3, seed=7, image_size=32
    )
    assert config.from_scratch() == replace(config, phases=(0, 0, 12), lr=2e-3)
    assert config.from_scratch().epochs == config.epochs == 12
    assert all(
        len(open_stages(epoch, config.from_scratch().phases, N_STAGES)) == 4 for epoch in range(12)
    )


@pytest.mark.parametrize(
    "opened", [range(3, 4), range(2, 4), range(4)], ids=["head", "last stage", "all"]
)
def test_open_stages_train_and_frozen_ones_are_in_eval_without_gradients(opened):
    model = Classifier(build_encoder("custom_cnn", 3, 16), 3)
    for _ in range(2):  # the second time after model.train(), as every evaluation may end
        set_open(model, opened)
        for number, stage in enumerate(model.stages):
            assert all(module.training == (number in opened) for module in stage.modules())
            assert all(
                parameter.requires_grad == (number in opened) for parameter in stage.parameters()
            )
        model.train()


def test_no_dropout_noise_comes_from_frozen_stages():
    model = Classifier(build_encoder("custom_cnn", 3, 16, dropout=0.5), 3, dropout=0.5)
    batch = torch.randn(4, 3, 16, 16)
    set_open(model, range(3, 4))
    assert torch.equal(model.encoder(batch), model.encoder(batch))
    assert not torch.equal(model(batch), model(batch))  # the head is open and does drop
    set_open(model, range(4))
    assert not torch.equal(model.encoder(batch), model.encoder(batch))


def of_two_blocks(name, *shape, **options):
    """`build_encoder`, but of the ViT's twelve blocks only the first two."""
    encoder = build_encoder(name, *shape, **options)
    if name == "vit_b_16":
        encoder.blocks = encoder.blocks[:2]
    return encoder


@pytest.mark.parametrize(
    ("encoder", "phases", "opened_in"),  # how many stages, counted from the head, epoch by epoch
    [
        ("custom_cnn", (1, 1, 1), [1, 2, 4]),
        ("custom_cnn", (2, 1, 1), [1, 1, 2, 4]),
        ("custom_cnn", (0, 1, 2), [2, 4, 4]),
        ("resnet50", (1, 1, 1), [1, 2, 6]),
        ("vit_b_16", (1, 1, 1), [1, 2, 4]),  # of two blocks: what opens is the same
    ],
)
def test_every_epoch_moves_all_of_the_open_stages_and_not_a_bit_of_the_frozen_ones(
    tmp_path, monkeypatch, encoder, phases, opened_in
):
    before, checked = {}, []

    def watch(model, epoch, moment):
        state = checkpoints.clean_state(model)
        if moment == "before":
            before.update(state)
            return
        names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
        for number, stage in enumerate(model.stages):
            is_open = number >= len(model.stages) - opened_in[epoch]
            # parameters and batch-norm buffers alike; an open stage moves from its very first epoch
            for tensor in (*stage.parameters(), *stage.buffers()):
                name = names[id(tensor)]
                assert torch.equal(state[name], before[name]) != is_open, (epoch, name)
                checked.append(name)

    each_epoch(monkeypatch, watch)
    monkeypatch.setattr(src.encoders.starting, "build_encoder", of_two_blocks)
    few = replace(SPLIT, train=np.arange(16))
    run(tmp_path, replace(CONFIG, encoder=encoder, phases=phases), split=few)
    assert set(checked) == set(before) and len(checked) == len(before) * sum(
        phases
    )  # nothing was overlooked


@pytest.mark.parametrize(
    ("encoder", "last"), [("resnet50", "layer4."), ("vit_b_16", ("blocks.11.", "norm."))]
)
def test_phase_2_opens_the_studys_last_stage(encoder, last):
    model = Classifier(build_encoder(encoder, 3, 16), 3)
    set_open(model, open_stages(1, (1, 1, 1), len(model.stages)))
    learns = {
        name.removeprefix("encoder.") for name, p in model.named_parameters() if p.requires_grad
    }
    assert learns == {
        name.removeprefix("encoder.")
        for name, _ in model.named_parameters()
        if name.removeprefix("encoder.").startswith(last) or name.startswith("head.")
    }


def test_the_phase_table_says_what_learns_when():
    model = Classifier(build_encoder("custom_cnn", 3, 16), 3)
    table = phase_table(model, (10, 10, 80))
    assert table["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert list(table.index) == ["stage 1", "stage 2", "stage 3", "head"]
    learns = table.drop(columns="parameters") == "learns"
    assert learns.sum().to_dict() == {"from epoch 1": 1, "from epoch 11": 2, "from epoch 21": 4}
    assert list(phase_table(model, (0, 0, 100)).columns) == ["parameters", "from epoch 1"]


def test_starting_points_are_found_by_schedule_or_by_name(pretrained):
    models, schedules = pretrained.parent, {"short": 7, "long": 70}
    checkpoints.copy(pretrained, models / checkpoints.contrastive_alias(7))
    arms = starting_points(["short", "best.pth", "imagenet"], models, schedules, "custom_cnn")
    assert list(arms.values()) == [
        models / "best_contrastive_model_7Ep.pth",
        pretrained,
        "imagenet",
    ]
    assert list(arms) == ["pretrained 7", "pretrained 7 (best)", "ImageNet"]
    with pytest.raises(CheckpointError, match=r"best_contrastive_model_70Ep\.pth"):
        starting_points(["long"], models, schedules, "custom_cnn")
    with pytest.raises(CheckpointError, match="expected 'resnet50'"):
        starting_points(["short"], models, schedules, "resnet50")


# Where it starts


def test_pretrained_weights_are_in_the_model_and_stay_while_only_the_head_learns(
    tmp_path, pretrained
):
    result = run(tmp_path, replace(CONFIG, phases=(1, 0, 0)), pretrained=pretrained)
    state = checkpoints.load(pretrained)[0]["encoder"]
    assert equal(result.model.encoder.state_dict(), state)
    assert equal(checkpoints.load_classifier(result.checkpoint)[0].encoder.state_dict(), state)


def test_both_arms_start_with_the_same_head_but_not_the_same_encoder(
    tmp_path, monkeypatch, pretrained
):
    starts = []
    each_epoch(
        monkeypatch, lambda model, epoch, moment: starts.append(checkpoints.clean_state(model))
    )
    config = replace(CONFIG, phases=(0, 0, 1))
    run(tmp_path, config, pretrained=pretrained)
    run(tmp_path, config)
    informed, naive = starts[0], starts[2]
    for name in informed:
        if name.startswith("head."):
            assert torch.equal(informed[name], naive[name])
    assert not torch.equal(
        informed["encoder.stages.0.0.weight"], naive["encoder.stages.0.0.weight"]
    )


def test_tones_change_what_is_learnt_and_are_in_the_record(tmp_path):
    config = replace(CONFIG, phases=(0, 0, 1))
    plain = run(tmp_path / "plain", config)
    toned = run(tmp_path / "toned", replace(config, tones=0.5))
    assert checkpoints.load(toned.checkpoint)[1]["config"]["tones"] == 0.5
    assert toned.history["loss"][0] != plain.history["loss"][0]
    again = run(tmp_path / "again", replace(config, tones=0.5))
    np.testing.assert_array_equal(again.test_logits, toned.test_logits)


def test_the_name_and_the_record_tell_the_arms_apart(tmp_path, learnt, pretrained):
    informed = run(tmp_path, replace(CONFIG, phases=(1, 0, 0)), pretrained=pretrained)
    accuracy = f"acc{100 * informed.val_accuracy:.2f}"
    assert informed.checkpoint.name.startswith(
        f"final_supervised_model_progressive_unfr_{accuracy}_20"
    )
    assert learnt.checkpoint.name.startswith("final_supervised_model_from_scratch_acc")
    assert checkpoints.load(informed.checkpoint)[1]["pretrained"] == "best.pth"
    assert checkpoints.load(learnt.checkpoint)[1]["pretrained"] is None


# What it learns, selects and reports


def test_it_learns_what_is_easy_to_tell_apart(learnt):
    assert learnt.history["loss"].iloc[-1] < 0.5 * learnt.history["loss"][0]
    assert learnt.val_accuracy > 0.9
    assert learnt.test_accuracy > 0.8  # not selected on


def test_the_history_has_one_row_an_epoch(learnt):
    assert list(learnt.history.columns) == [
        "epoch",
        "loss",
        "lr",
        "images_per_s",
        "data_share",
        "seconds",
        "open",
        "val_accuracy",
    ]
    assert learnt.history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert learnt.history["open"].tolist() == [4] * 5
    assert learnt.history["lr"].is_monotonic_decreasing


def test_the_checkpoint_holds_the_first_epoch_best_on_val(learnt):
    about = checkpoints.load(learnt.checkpoint)[1]
    assert about["epoch"] == learnt.history["val_accuracy"].argmax() + 1
    assert about["metrics"] == {
        "val_accuracy": learnt.val_accuracy,
        "test_accuracy": learnt.test_accuracy,
    }
    assert learnt.val_accuracy == learnt.history["val_accuracy"].max()
    assert about["classes"] == CLASSES and about["data"] == {"kind": "patterns"}


def test_the_reported_test_accuracy_is_the_loaded_checkpoints(learnt):
    model, _ = checkpoints.load_classifier(learnt.checkpoint, expect="custom_cnn")
    logits = embed(model, IMAGES[SPLIT.test], 16, FLOAT32)
    assert learnt.test_logits.dtype == np.float32
    np.testing.assert_allclose(learnt.test_logits, logits, atol=1e-4)
    assert learnt.test_accuracy == (logits.argmax(1) == LABELS[SPLIT.test]).mean()
    assert equal(model.state_dict(), learnt.model.state_dict())
    assert not any(module.training for module in learnt.model.modules())


def test_the_epoch_is_selected_on_val_and_test_is_seen_once_at_the_end(tmp_path, monkeypatch):
    seen, states = [], []
    right = iter(
        [5, 14, 14, 9]
    )  # of the 17 val images, by epoch: the second is best, and before its equal

    def told(model, images, size, runtime):
        seen.append(images)
        if len(images) == len(SPLIT.test):
            return np.eye(3)[LABELS[SPLIT.test]]  # all right: no reason to select any epoch
        wrong = np.arange(len(images)) >= next(right)
        return np.eye(3)[(LABELS[SPLIT.val] + wrong) % 3]

    monkeypatch.setattr(src.finetune, "embed", told)
    each_epoch(monkeypatch, lambda model, *when: states.append(checkpoints.clean_state(model)))
    result = run(tmp_path, replace(CONFIG, phases=(0, 0, 4)))
    assert result.history["val_accuracy"].tolist() == [5 / 17, 14 / 17, 14 / 17, 9 / 17]
    assert (result.val_accuracy, result.test_accuracy) == (14 / 17, 1.0)
    after = states[1::2]
    assert equal(checkpoints.load(result.checkpoint)[0]["classifier"], after[1])
    assert equal(result.model.state_dict(), after[1]) and not equal(after[1], after[2])
    expected = [IMAGES[SPLIT.val]] * 4 + [IMAGES[SPLIT.test]]
    assert all(np.array_equal(*pair) for pair in zip(seen, expected, strict=True))


def test_only_training_rows_are_trained_on_with_their_own_labels(tmp_path, monkeypatch):
    batches, real = [], src.finetune.prepare
    monkeypatch.setattr(
        src.finetune, "prepare", lambda images, *rest: batches.append(images) or real(images, *rest)
    )
    targets, cross_entropy = [], src.finetune.F.cross_entropy

    def watch(logits, labels):
        targets.append(labels)
        return cross_entropy(logits, labels)

    monkeypatch.setattr(src.finetune.F, "cross_entropy", watch)
    rows = np.random.default_rng(0).permutation(72)  # not in the order of the store, unlike SPLIT
    run(tmp_path, split=Split(rows[:40], rows[40:57], rows[57:]))
    numbered = {image.tobytes(): row for row, image in enumerate(IMAGES)}
    taken = [[numbered[image.numpy().tobytes()] for image in batch] for batch in batches]
    assert [LABELS[rows].tolist() for rows in taken] == [labels.tolist() for labels in targets]
    for epoch in (np.concatenate(taken[:5]), np.concatenate(taken[5:])):
        assert sorted(epoch) == sorted(rows[:40])
    assert taken[:5] != taken[5:]


def test_two_runs_of_one_seed_agree_bit_by_bit_and_another_seed_does_not(tmp_path):
    config = replace(CONFIG, phases=(1, 1, 1))
    first, second, other = (
        run(tmp_path / str(n), replace(config, seed=s)) for n, s in enumerate([1, 1, 2])
    )
    assert (
        first.history["loss"].tolist()
        == second.history["loss"].tolist()
        != other.history["loss"].tolist()
    )
    np.testing.assert_array_equal(first.test_logits, second.test_logits)
    assert equal(first.model.state_dict(), second.model.state_dict())


def test_random_numbers_drawn_elsewhere_do_not_change_the_training(tmp_path, monkeypatch):
    undisturbed = run(tmp_path / "a", replace(CONFIG, dropout=0.5))
    each_epoch(monkeypatch, lambda *when: torch.rand(7))
    disturbed = run(tmp_path / "b", replace(CONFIG, dropout=0.5))
    assert equal(disturbed.model.state_dict(), undisturbed.model.state_dict())


def test_data_and_labels_are_only_read(tmp_path):
    images, labels = IMAGES.copy(), LABELS.copy()
    run(tmp_path, images=images, labels=labels)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


# What is refused


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_refused(tmp_path, label):
    labels = LABELS.copy()
    labels[60] = label  # in the test rows: found before an hour of training, not after
    with pytest.raises(
        ValueError, match=r"labels run from -?[0-9] to [0-9], but there are 3 classes"
    ):
        run(tmp_path, labels=labels)


@pytest.mark.parametrize("batch_size", [0, 41])
def test_a_batch_that_training_rows_cannot_fill_is_refused(tmp_path, batch_size):
    with pytest.raises(ValueError, match=f"batch_size {batch_size} for 40 training images"):
        run(tmp_path, replace(CONFIG, batch_size=batch_size))


def test_pretrained_weights_of_another_encoder_are_refused(tmp_path):
    about = {"config": {"encoder": "resnet18", "in_channels": 3, "image_size": 16, "dropout": 0.1}}
    file = checkpoints.save(tmp_path / "a.pth", {"encoder": {}}, about)
    with pytest.raises(
        CheckpointError, match="holds the encoder 'resnet18', expected 'custom_cnn'"
    ):
        run(tmp_path / "models", pretrained=file)


def test_pretrained_weights_for_other_channels_are_refused(tmp_path):
    about = {
        "config": {"encoder": "custom_cnn", "in_channels": 4, "image_size": 16, "dropout": 0.1}
    }
    state = {"encoder": build_encoder("custom_cnn", 4, 16).state_dict()}
    with pytest.raises(CheckpointError, match="size mismatch"):
        run(tmp_path / "models", pretrained=checkpoints.save(tmp_path / "a.pth", state, about))


def test_a_vit_pretrained_at_another_size_is_refused_with_both_sizes(tmp_path):
    config = {"encoder": "vit_b_16", "in_channels": 3, "image_size": 32, "dropout": 0.1}
    known = {"config": config}
    with pytest.raises(CheckpointError, match=r"a\.pth is of image_size 32, .* asks for 16"):
        check_fits(known, {**config, "image_size": 16}, "a.pth")
    check_fits(known, config, "a.pth")
    # the others pool over whatever is left
    check_fits(known, {**config, "encoder": "resnet50", "image_size": 16}, "a.pth")


@pytest.mark.parametrize(
    ("encoder", "was", "asked", "told"),
    [
        ("custom_cnn", {"in_channels": 12}, {}, "in_channels 12, fine-tuning asks for 3"),
        ("custom_cnn", {}, {"in_channels": 12}, "in_channels 3, fine-tuning asks for 12"),
        ("vit_b_16", {}, {"image_size": 32}, "image_size 16, fine-tuning asks for 32"),
        ("custom_cnn", {}, {"image_size": 32, "dropout": 0.4}, None),
    ],
)
def test_a_classifier_to_go_on_with_is_of_these_images_or_refused(
    tmp_path, encoder, was, asked, told
):
    known = {"encoder": encoder, "in_channels": 3, "image_size": 16, "dropout": 0.1} | was
    torch.manual_seed(0)
    source = Classifier(build_encoder(*known.values()), 2)
    state = {"classifier": checkpoints.clean_state(source)}
    file = checkpoints.save(tmp_path / "a.pth", state, {"config": known, "classes": ["a", "b"]})
    config = FinetuneConfig(**({"encoder": encoder, "image_size": 16} | asked))
    start = partial(starting_classifier, config, ["a", "b"], file, pick("cpu", "float32"))
    if told:
        with pytest.raises(CheckpointError, match=told):
            start()
        return
    model = start()
    assert model.encoder.image_size == 32  # what it is trained on is what it is measured on
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.4}
    assert all(map(torch.equal, model.state_dict().values(), source.state_dict().values()))


def test_missing_pretrained_weights_are_named_not_replaced_by_random_ones(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*best_contrastive_model_50Ep\.pth"):
        run(tmp_path, pretrained=tmp_path / "best_contrastive_model_50Ep.pth")


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_no_checkpoint(tmp_path, monkeypatch):
    real = build_encoder

    def broken(*args, **options):
        encoder = real(*args, **options)
        nn.init.constant_(encoder.stages[0][0].weight, float("nan"))
        return encoder

    monkeypatch.setattr(src.encoders.starting, "build_encoder", broken)
    with pytest.raises(FloatingPointError, match="loss of epoch 1 is nan"):
        run(tmp_path)
    assert list(tmp_path.rglob("*.pth")) == []
    (told,) = tmp_path.rglob("run.json")
    assert "loss of epoch 1 is nan" in json.loads(told.read_text())["status"]
