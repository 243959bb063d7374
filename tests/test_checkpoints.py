"""Checkpoints: their names, that they come back whole or not at all, and that none of them can run
code.
"""

import json
import os
import pickle
import random
from datetime import datetime
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from torch import nn

from src import checkpoints
from src.checkpoints import load, load_classifier, load_encoder, restore, save
from src.encoders import Classifier, build_encoder, projection_head
from src.errors import CheckpointError

WHEN = datetime(2025, 12, 15, 6, 14, 39)
CONFIG = {"encoder": "custom_cnn", "in_channels": 3, "image_size": 16, "dropout": 0.1}
STATE = {"encoder": {"weight": torch.arange(4000.0), "count": torch.tensor(3)}}


def encoder(in_channels=3, seed=0):
    torch.manual_seed(seed)
    return build_encoder("custom_cnn", in_channels, 16)


def assert_same_weights(state, expected):
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor), key


def files_in(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def file(tmp_path):
    return save(tmp_path / "a.pth", STATE, {"epoch": 1})


# Names


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (0.2010, "best_contrastive_model_50Ep_32BS_Loss0_2010_20251215_061439.pth"),
        (2.20104, "best_contrastive_model_50Ep_32BS_Loss2_2010_20251215_061439.pth"),
    ],
)
def test_contrastive_names_are_the_studys(loss, name):
    assert checkpoints.contrastive_name(50, 32, loss, WHEN) == name


def test_the_alias_names_the_epochs_alone():
    assert checkpoints.contrastive_alias(300) == "best_contrastive_model_300Ep.pth"


def test_supervised_names_are_the_studys():
    when = datetime(2025, 12, 20, 1, 1, 3)
    expected = "final_supervised_model_progressive_unfr_acc93.22_20251220_010103.pth"
    assert checkpoints.supervised_name(0.9322, when) == expected
    assert checkpoints.supervised_name(1.0, when, "from_scratch").startswith(
        "final_supervised_model_from_scratch_acc100.00_2025"
    )


# What is saved comes back


def test_state_and_about_come_back_as_saved(tmp_path):
    state = {
        "encoder": encoder().state_dict(),
        "optimizer": {"state": {0: {"step": torch.tensor(4.0)}}, "lr": 1e-3},
    }
    file = save(
        tmp_path / "deep" / "er" / "a.pth",
        state,
        {"epoch": 7, "metrics": {"loss": 0.1}, "knn": None},
    )
    loaded, about = load(file)
    assert_same_weights(loaded["encoder"], state["encoder"])
    assert loaded["optimizer"] == state["optimizer"]
    assert about == {"format": 1, "epoch": 7, "metrics": {"loss": 0.1}, "knn": None}


def test_the_json_beside_it_says_what_the_checkpoint_says(tmp_path):
    name = checkpoints.supervised_name(
        0.9322, WHEN
    )  # a name with a dot of its own, as .json must replace .pth only
    file = save(
        tmp_path / name, STATE, {"epoch": 7, "projection": (512, 128), "history": [{"loss": 0.25}]}
    )
    sidecar = json.loads((tmp_path / f"{name.removesuffix('.pth')}.json").read_text())
    assert sidecar == load(file)[1]
    assert sidecar["projection"] == [512, 128]
    assert files_in(tmp_path) == sorted([name, f"{name.removesuffix('.pth')}.json"])


def test_the_file_loads_with_weights_only(file):
    assert torch.load(file, weights_only=True)["about"] == {"format": 1, "epoch": 1}


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        lambda model: torch.compile(nn.DataParallel(model)),
        lambda model: nn.DataParallel(torch.compile(model)),
    ],
    ids=["compile", "parallel", "compile(parallel)", "parallel(compile)"],
)
def test_wrapped_models_save_the_keys_of_the_bare_one(wrap):
    wrapped = wrap(encoder())
    assert (
        wrapped.state_dict().keys() != encoder().state_dict().keys()
    )  # the wrapper did rename them
    assert_same_weights(checkpoints.clean_state(wrapped), encoder().state_dict())


def test_a_wrapper_inside_is_stripped_too():
    bare, head = encoder(), projection_head(256, (8, 4))
    state = checkpoints.clean_state(nn.Sequential(torch.compile(bare), head))
    assert_same_weights(state, nn.Sequential(bare, head).state_dict())


def test_a_clean_state_is_a_contiguous_copy():
    model = encoder().to(memory_format=torch.channels_last)
    state = checkpoints.clean_state(model)
    assert all(tensor.is_contiguous() for tensor in state.values())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)  # the next optimiser step must not change what was kept
    assert_same_weights(state, encoder().state_dict())


def test_an_encoder_comes_back_built_and_in_eval_mode(tmp_path):
    file = save(
        tmp_path / "a.pth",
        {"encoder": encoder(4).state_dict()},
        {"config": {**CONFIG, "in_channels": 4}},
    )
    loaded, about = load_encoder(file, expect="custom_cnn")
    assert_same_weights(loaded.state_dict(), encoder(4).state_dict())
    assert not any(module.training for module in loaded.modules())
    assert (loaded.image_size, about["config"]["in_channels"]) == (16, 4)


def test_a_classifier_comes_back_with_its_classes_and_in_eval_mode(tmp_path):
    model = Classifier(encoder(), 3, 0.25)
    about = {"config": {**CONFIG, "dropout": 0.25}, "classes": ["a", "b", "c"]}
    loaded, about = load_classifier(
        save(tmp_path / "a.pth", {"classifier": model.state_dict()}, about)
    )
    assert_same_weights(loaded.state_dict(), model.state_dict())
    assert not any(module.training for module in loaded.modules())
    assert {m.p for m in loaded.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)} == {0.25}
    assert about["classes"] == ["a", "b", "c"]


def test_a_copy_is_the_same_checkpoint_under_another_name(file):
    target = checkpoints.copy(file, file.with_name("b_acc93.22_x.pth"))
    assert target.read_bytes() == file.read_bytes()
    assert (
        target.with_name("b_acc93.22_x.json").read_text() == file.with_suffix(".json").read_text()
    )
    assert len(files_in(file.parent)) == 4


# What is refused


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*best_50\.pth"):
        load(tmp_path / "best_50.pth")


@pytest.mark.parametrize("keep", [0, 1, 30, 0.1, 0.5, 0.9, 0.99, -1], ids="{}".format)
def test_a_cut_checkpoint_is_refused_by_name(file, keep):
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(CheckpointError, match=r"a\.pth is (not a whole checkpoint|damaged)"):
        load(file)


@pytest.mark.parametrize(
    "head", [b"", b"PK\x03\x04", b"\x80\x02"], ids=["noise", "like a zip", "like a pickle"]
)
def test_random_bytes_are_refused(tmp_path, head):
    (tmp_path / "a.pth").write_bytes(head + random.Random(0).randbytes(5000))
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load(tmp_path / "a.pth")


class Malice:
    """Pickles as a call that makes a folder: what the pickle of an attacker does, in a way that
    shows.
    """

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_the_malice_of_these_tests_works(tmp_path):
    pickle.loads(pickle.dumps(Malice(tmp_path / "owned")))
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "write",
    [
        torch.save,
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content, path: path.write_bytes(pickle.dumps(content)),
    ],
    ids=["torch.save", "torch.save of old", "raw pickle"],
)
def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path, write):
    write(
        {"state": {"encoder": Malice(tmp_path / "owned")}, "about": {"format": 1}},
        tmp_path / "a.pth",
    )
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load_encoder(tmp_path / "a.pth")
    assert not (tmp_path / "owned").exists()


def test_a_pickled_module_is_refused_as_code(tmp_path):
    torch.save(
        {"state": encoder(), "about": {"format": 1}}, tmp_path / "a.pth"
    )  # as much published code saves it
    with pytest.raises(CheckpointError, match="could run code"):
        load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "content", [encoder().state_dict(), [torch.ones(2)], torch.ones(2)], ids=lambda c: str(type(c))
)
def test_a_checkpoint_of_another_program_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not written by ood-satellite"):
        load(tmp_path / "a.pth")


def test_a_newer_format_is_refused_with_both_versions(tmp_path):
    save(tmp_path / "a.pth", STATE, {"format": 99})
    with pytest.raises(CheckpointError, match="checkpoint format 99, this code reads up to 1"):
        load(tmp_path / "a.pth")


def reshaped(state):
    return {**state, "stages.0.0.weight": torch.ones(64, 4, 3, 3)}


def without_a_key(state):
    return {key: tensor for key, tensor in state.items() if key != "stages.2.1.running_var"}


def with_a_key_more(state):
    return {**state, "fc.weight": torch.ones(2)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (reshaped, "size mismatch"),
        (without_a_key, "Missing key.*running_var"),
        (with_a_key_more, "Unexpected.*fc"),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path, change, told):
    file = save(tmp_path / "a.pth", {"encoder": change(encoder().state_dict())}, {"config": CONFIG})
    with pytest.raises(CheckpointError, match=rf"(?s)a\.pth does not fit CustomCNN.*{told}"):
        load_encoder(file)


def test_restore_fits_or_refuses():
    target = encoder(seed=1)
    restore(target, encoder(seed=2).state_dict(), "b.pth")
    assert_same_weights(target.state_dict(), encoder(seed=2).state_dict())
    with pytest.raises(CheckpointError, match=r"b\.pth does not fit CustomCNN"):
        restore(target, projection_head(256).state_dict(), "b.pth")


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_another_encoder_than_expected_is_refused_with_both_names(tmp_path, kind):
    file = save(
        tmp_path / "a.pth",
        {kind: {}},
        {"config": {**CONFIG, "encoder": "resnet18"}, "classes": ["a"]},
    )
    with pytest.raises(
        CheckpointError, match="holds the encoder 'resnet18', expected 'custom_cnn'"
    ):
        {"encoder": load_encoder, "classifier": load_classifier}[kind](file, expect="custom_cnn")


def test_encoder_and_classifier_are_not_confused(tmp_path):
    pretrained = save(tmp_path / "a.pth", {"encoder": {}, "projection": {}}, {"config": CONFIG})
    finetuned = save(tmp_path / "b.pth", {"classifier": {}}, {"config": CONFIG})
    with pytest.raises(CheckpointError, match=r"no classifier but \['encoder', 'projection'\]"):
        load_classifier(pretrained)
    with pytest.raises(CheckpointError, match=r"no encoder but \['classifier'\]"):
        load_encoder(finetuned)


# Nothing half-written


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [True, False], ids=["replacing", "first"])
def test_a_failure_while_saving_leaves_what_was_there(tmp_path, monkeypatch, error, before):
    file = tmp_path / "a.pth"
    if before:
        save(file, STATE, {"epoch": 1})
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(content, path):
        path.write_bytes(b"PK half a checkpoint")
        raise error("disk full")

    monkeypatch.setattr(torch, "save", full_disk)
    told = CheckpointError if error is OSError else error
    with pytest.raises(told, match="disk full"):
        save(file, {"encoder": {}}, {"epoch": 2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there


@pytest.mark.parametrize(
    "value", [object(), torch.ones(1), WHEN], ids=["object", "tensor", "datetime"]
)
def test_an_about_that_is_not_plain_is_refused_before_anything_is_written(file, value):
    there = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    with pytest.raises(TypeError):
        save(file, STATE, {"epoch": 2, "value": value})
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == there


# What no training leaves


def with_weight(change, key="stages.0.0.weight"):
    state = dict(checkpoints.clean_state(encoder()))
    state[key] = change(state[key].clone())
    return state


def spoilt(value):
    def change(tensor):
        tensor.view(-1)[5] = value
        return tensor

    return change


UNSOUND = {
    "NaN": with_weight(spoilt(float("nan"))),
    "infinite": with_weight(spoilt(float("-inf"))),
    "float16": with_weight(torch.Tensor.half),
    "bfloat16": with_weight(torch.Tensor.bfloat16),
    "float64": with_weight(torch.Tensor.double),
    "int8": with_weight(torch.Tensor.char),
    "complex": with_weight(lambda tensor: tensor.to(torch.complex64)),
    "sparse": with_weight(torch.Tensor.to_sparse),
    "negative variance": with_weight(spoilt(-0.1), "stages.1.1.running_var"),
    "NaN mean": with_weight(spoilt(float("nan")), "stages.1.1.running_mean"),
    "float count": with_weight(torch.Tensor.float, "stages.0.1.num_batches_tracked"),
    "a number": with_weight(lambda tensor: 3.0),
    "a list": with_weight(lambda tensor: [1.0]),
    "None": with_weight(lambda tensor: None),
    "a name that is none": {**checkpoints.clean_state(encoder()), 3: torch.ones(1)},
    "no names": [torch.ones(3)],
    "nothing": None,
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("state", UNSOUND.values(), ids=UNSOUND)
@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_weights_that_no_training_leaves_are_refused(tmp_path, state, kind):
    if kind == "classifier" and isinstance(state, dict):
        whole = Classifier(encoder(), 2)
        named = {f"encoder.{key}": tensor for key, tensor in state.items()}
        state = {**checkpoints.clean_state(whole), **named}
    metadata = {"config": CONFIG, "classes": ["a", "b"]}
    file = save(tmp_path / "a.pth", {kind: state}, metadata)
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        {"encoder": load_encoder, "classifier": load_classifier}[kind](file)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"config": None, "classes": ["a"]},
        {"config": [1], "classes": ["a"]},
        {"config": {}, "classes": ["a"]},
        {"config": {**CONFIG, "encoder": None}, "classes": ["a"]},
        {"config": {**CONFIG, "encoder": ["custom_cnn"]}, "classes": ["a"]},
        {"config": {**CONFIG, "encoder": "resnet18"}, "classes": ["a"]},
        {"config": {**CONFIG, "in_channels": "3"}, "classes": ["a"]},
        {"config": {**CONFIG, "in_channels": 10**9}, "classes": ["a"]},
        {"config": {**CONFIG, "image_size": None}, "classes": ["a"]},
        {"config": {**CONFIG, "image_size": 16.5}, "classes": ["a"]},
        {"config": {**CONFIG, "encoder": "vit_b_16", "image_size": 10**6}, "classes": ["a"]},
        {"config": {**CONFIG, "dropout": 2}, "classes": ["a"]},
        {"config": {**CONFIG, "dropout": float("nan")}, "classes": ["a"]},
        {"config": {k: v for k, v in CONFIG.items() if k != "dropout"}, "classes": ["a"]},
        {"config": CONFIG},
        {"config": CONFIG, "classes": 3},
        {"config": CONFIG, "classes": "abc"},
        {"config": CONFIG, "classes": []},
        {"config": CONFIG, "classes": [1, 2]},
        {"config": CONFIG, "classes": {"a": 1}},
        {"config": CONFIG, "classes": ["a"] * 10_001},
    ],
    ids=lambda metadata: str(metadata)[:60],
)
def test_what_is_known_of_a_classifier_must_be_of_one(tmp_path, metadata):
    state = checkpoints.clean_state(Classifier(encoder(), 1))
    file = save(tmp_path / "a.pth", {"classifier": state}, metadata)
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load_classifier(file)


@pytest.mark.parametrize(
    "content",
    [
        {"state": {}, "about": None},
        {"state": {}, "about": [1]},
        {"state": None, "about": {"format": 1}},
        {"state": [1], "about": {"format": 1}},
        {"state": {}, "about": {"format": "1"}},
        {"state": {}, "about": {"format": None}},
        {"state": {}, "about": {"format": True}},
        {"state": {}, "about": {"format": 0}},
        {"state": {}, "about": {"format": 1.5}},
        {"state": {}, "about": {}},
        {"state": {}},
        {1: 2},
        None,
        "text",
        7,
    ],
    ids=str,
)
def test_a_file_that_is_not_as_save_writes_it_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not written by ood-satellite"):
        load(tmp_path / "a.pth")


@pytest.mark.parametrize("value", [None, "0.9", float("nan"), 1.5, -1, [0.9]])
def test_the_best_classifier_is_one_that_says_how_good_it_is(tmp_path, value):
    save(tmp_path / "final_supervised_model_a.pth", {}, {"metrics": {"val_accuracy": value}})
    with pytest.raises(CheckpointError, match=r"final_supervised_model_a\.pth.*val_accuracy"):
        checkpoints.best_classifier(tmp_path)


@pytest.mark.parametrize("config", [{"tones": 0.75}, {"tones": 0.0}, {}, None])
def test_a_map_takes_the_best_classifier_that_knows_tones_if_there_is_one(tmp_path, config):
    about = {"a": (0.9, {"tones": 0.0}), "b": (0.7, config), "c": (0.6, config)}
    for name, (value, own) in about.items():
        metadata = {"config": own, "metrics": {"val_accuracy": value}}
        save(tmp_path / f"final_supervised_model_{name}.pth", {}, metadata)
    chosen = "b" if config and config.get("tones") else "a"
    best = checkpoints.best_classifier(tmp_path, tones=True)
    assert best.name == f"final_supervised_model_{chosen}.pth"
    assert checkpoints.best_classifier(tmp_path).name == "final_supervised_model_a.pth"


def test_a_checkpoint_claims_no_more_than_it_has(tmp_path, file):
    bomb = tmp_path / "bomb.pth"
    with ZipFile(file) as whole, ZipFile(bomb, "w", ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
        packed.writestr("archive/data/99", bytes(50_000_000))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match=r"claims 50,\S* bytes, which is more than it has"):
        load(bomb)


def test_a_copy_needs_no_json_beside_its_source(tmp_path, file):
    file.with_suffix(".json").unlink()
    checkpoints.copy(file, tmp_path / "b.pth")
    assert (
        json.loads((tmp_path / "b.json").read_text())
        == load(file)[1]
        == load(tmp_path / "b.pth")[1]
    )
