"""Weights of other code: found in every published layout, whole or not at all, and told apart."""

import functools
import hashlib
import json
from argparse import Namespace

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

import src.encoders.starting
from src import checkpoints
from src.data.splits import Split
from src.encoders import build_encoder
from src.encoders.foreign import foreign_state, is_foreign, short_name
from src.encoders.starting import starting_encoder, starting_points
from src.errors import CheckpointError
from src.finetune import FinetuneConfig, finetune
from src.results import read_records, runs_table, write_record
from src.runs import RunSettings
from src.runs.runtime import pick

FLOAT32 = pick("cpu", "float32")


def of_two_blocks(name, *shape, **options):
    encoder = build_encoder(name, *shape, **options)
    if name == "vit_b_16":
        encoder.blocks = encoder.blocks[:2]
    return encoder


@functools.lru_cache(maxsize=8)
def encoder_of(name, *shape):
    """An encoder of names and shapes alone; of the ViT's twelve blocks the first two."""
    with torch.device("meta"):
        return of_two_blocks(name, *shape)


def weights(name="resnet50", bands=3, size=32):
    """A state dict as published: every tensor full of a number of its own, so that files are small
    (`expand` keeps one number) and none can be mistaken for another.
    """
    state = encoder_of(name, bands, size).state_dict()
    return {
        key: torch.full((), n, dtype=value.dtype).expand(value.shape)
        for n, (key, value) in enumerate(state.items())
    }


def first(value):
    return value[(0,) * value.dim()]


def each(state, change):
    return {key: change(first(value)).expand(value.shape) for key, value in state.items()}


def behind(prefix, state):
    return {prefix + key: value for key, value in state.items()}


HEAD = {"fc.weight": torch.zeros(10, 2048), "fc.bias": torch.zeros(10)}
DECODER = {"mask_token": torch.zeros(1, 1, 512), "decoder_blocks.0.norm1.weight": torch.zeros(512)}


def moco(state, query="encoder_q", key="encoder_k"):
    """As SSL4EO-S12's and MoCo's own scripts save it: two networks of one shape, the queue."""
    second = each(state, lambda value: value + 1000)
    both = {
        **behind(f"module.{query}.", {**state, "fc.0.weight": torch.zeros(3)}),
        **behind(f"module.{key}.", {**second, "fc.0.weight": torch.zeros(3)}),
        "module.queue": torch.zeros(128, 4),
    }
    moments = {0: {"exp_avg": torch.zeros(3), "step": 7}}
    return {
        "epoch": 100,
        "arch": "resnet50",
        "state_dict": both,
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1}]},
    }


def dino(state, prefix="backbone."):
    """The student comes first in the file, and the teacher is what is used."""
    second = each(state, lambda value: value + 1000)
    head = {"head.mlp.0.weight": torch.zeros(3)}
    return {
        "student": {**behind("module.backbone.", second), **behind("module.", head)},
        "teacher": {**behind(prefix, state), **head},
        "args": Namespace(arch="resnet50", lr=0.1),
        "epoch": 100,
    }


def lightning(state):
    inside = behind("model.backbone.", state) | {"criterion.weight": torch.zeros(3)}
    return {"state_dict": inside, "pytorch-lightning_version": "2.1.0", "hyper_parameters": {}}


LAYOUTS = {  # name: encoder, bands, state dict → what the file holds, what is left out
    "torchgeo": ("resnet50", 13, lambda state: state, []),
    "torchvision": ("resnet50", 3, lambda state: state | HEAD, ["fc"]),
    "torchgeo's encoder": ("resnet50", 13, lambda state: behind("encoder.", state), []),
    "backbone": ("resnet50", 3, lambda s: {"model_state_dict": behind("backbone.", s)}, []),
    "MoCo": ("resnet50", 13, moco, ["module.encoder_q.fc", "module.encoder_k", "module.queue"]),
    "MoCo v3": (
        "vit_b_16",
        13,
        functools.partial(moco, query="base_encoder", key="momentum_encoder"),
        ["module.base_encoder.fc", "module.momentum_encoder", "module.queue"],
    ),
    "DINO": ("resnet50", 13, dino, ["head"]),
    "DINO, parallel": (
        "resnet50",
        13,
        functools.partial(dino, prefix="module.backbone."),
        ["head"],
    ),
    "DINO, ViT": ("vit_b_16", 2, dino, ["head"]),
    "MAE": (
        "vit_b_16",
        13,
        lambda state: {"model": state | DECODER, "args": Namespace(mask_ratio=0.7)},
        ["mask_token", "decoder_blocks"],
    ),
    "lightning": ("resnet50", 4, lightning, ["criterion"]),
    "old, without counters": (
        "resnet50",
        3,
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        [],
    ),
    "half precision": ("vit_b_16", 3, lambda state: each(state, torch.Tensor.half), []),
    "another program's Custom CNN": ("custom_cnn", 5, lambda state: behind("net.", state), []),
}


@pytest.mark.parametrize(("layout", "old"), [*((name, False) for name in LAYOUTS), ("MoCo", True)])
def test_every_published_layout_gives_every_weight(tmp_path, capsys, layout, old):
    name, bands, made, left_out = LAYOUTS[layout]
    state, file = weights(name, bands), tmp_path / "a.pth"
    torch.save(made(state), file, _use_new_zipfile_serialization=not old)
    assert is_foreign(file)
    found = foreign_state(file, encoder_of(name, bands, 32))
    assert found.keys() == state.keys()
    for key, value in state.items():
        if not (key.endswith("num_batches_tracked") and "counters" in layout):
            assert found[key].dtype == value.dtype and found[key].shape == value.shape
            assert first(found[key]) == first(value), key
    told = capsys.readouterr()
    told = (told.out + told.err).strip()
    expected = f"{file}: the encoder is taken; left out are {', '.join(left_out)}"
    assert told == (expected if left_out else "")


def test_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file

    state = build_encoder("custom_cnn", 4, 16).state_dict()
    file = tmp_path / "model.safetensors"
    save_file(behind("model.", state), file)
    assert is_foreign(file)
    found = foreign_state(file, encoder_of("custom_cnn", 4, 16))
    assert all(torch.equal(found[key], value) for key, value in state.items())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        foreign_state(file, encoder_of("custom_cnn", 4, 16))


def without(*names):
    return lambda state: {key: value for key, value in state.items() if key not in names}


@pytest.mark.parametrize(
    ("encoder", "bands", "made", "fault"),
    [
        (
            "resnet50",
            13,
            lambda state: state,
            r"conv1\.weight is \(64, 13, 7, 7\), expected \(64, 3, 7, 7\)",
        ),
        ("resnet50", 3, without("layer3.2.bn2.bias"), r"layer3\.2\.bn2\.bias is missing"),
        (
            "resnet50",  # a ResNet-101 has all of a ResNet-50's names, and more
            3,
            lambda state: state | {"layer3.6.conv1.weight": torch.zeros(256, 1024, 1, 1)},
            r"layer3\.6\.conv1\.weight is more than it has",
        ),
        (
            "vit_b_16",  # CLIP's has a norm before the blocks, and all other names
            3,
            lambda state: state | {"norm_pre.weight": torch.zeros(768)},
            r"norm_pre\.weight is more than it has",
        ),
        (
            "vit_b_16",
            3,
            lambda state: state | {"blocks.2.norm1.weight": torch.zeros(768)},
            r"blocks\.2\.norm1\.weight is more than it has",
        ),
        (
            "vit_b_16",  # DeiT's two tokens: no square of patches
            3,
            lambda state: state | {"pos_embed": torch.zeros(1, 6 + 1, 768)},
            r"pos_embed is \(1, 7, 768\), expected \(1, 5, 768\)",
        ),
        (
            "resnet50",
            3,
            lambda state: {"net": {"a.weight": torch.zeros(3)}},
            r"conv1\.weight is missing; .* and 2\d\d more",
        ),
        ("resnet50", 3, lambda state: {"epoch": 3, "model": "resnet50"}, "holds no state dict"),
        ("resnet50", 3, lambda state: [1, 2], "holds no state dict"),
        ("resnet50", 3, lambda state: {"model": nn.ReLU()}, "could run code when loaded: refused"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path, encoder, bands, made, fault):
    torch.save(made(weights(encoder, bands)), tmp_path / "a.pth")
    config = FinetuneConfig(encoder=encoder, image_size=32)
    with pytest.raises(CheckpointError, match=rf"a\.pth .*{fault}"):
        foreign_state(tmp_path / "a.pth", encoder_of(encoder, 3, config.image_size))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_no_training_leaves_are_refused(tmp_path, value):
    state = build_encoder("custom_cnn", 3, 16).state_dict()
    state["stages.1.0.weight"][0] = value
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"stages\.1\.0\.weight holds .* NaN or infinite"):
        starting_encoder(FinetuneConfig(image_size=16), tmp_path / "a.pth")


def test_a_file_that_is_cut_is_refused(tmp_path):
    for old in (False, True):
        file = tmp_path / "a.pth"
        torch.save(weights(), file, _use_new_zipfile_serialization=not old)
        file.write_bytes(file.read_bytes()[:-500])
        with pytest.raises(CheckpointError, match=r"damaged|not a whole checkpoint"):
            is_foreign(file)


def test_a_vits_positions_are_resampled_to_the_image_size_as_timm_does(tmp_path, capsys):
    state = weights("vit_b_16", 13, 224)
    state["pos_embed"] = torch.randn(1, 197, 768, generator=torch.Generator().manual_seed(0))
    torch.save({"model": state}, tmp_path / "a.pth")
    found = foreign_state(tmp_path / "a.pth", encoder_of("vit_b_16", 13, 64))
    expected = resample_abs_pos_embed(state["pos_embed"], [4, 4])
    assert torch.equal(found["pos_embed"], expected) and expected.shape == (1, 17, 768)
    assert "positions of 14 × 14 patches resampled to 4 × 4" in "".join(capsys.readouterr())


# --- where fine-tuning starts ---


def test_a_vit_starts_with_these_weights(tmp_path, monkeypatch):
    def build(*shape, **options):  # what no file has is left as it comes
        with torch.device("meta"):
            return of_two_blocks(*shape, **options).to_empty(device="cpu")

    monkeypatch.setattr(src.encoders.starting, "build_encoder", build)
    torch.save(moco(weights("vit_b_16", 4), "base_encoder", "m"), tmp_path / "a.pth")
    config = FinetuneConfig(
        encoder="vit_b_16", image_size=32, in_channels=4, statistics=((0.0,) * 4, (1.0,) * 4)
    )
    state = starting_encoder(config, tmp_path / "a.pth").state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights("vit_b_16", 4).items())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A ResNet-50 of 13 bands, real numbers in SSL4EO-S12's layout: 94 MB."""
    torch.manual_seed(5)
    state = build_encoder("resnet50", 13, 16).state_dict()
    file = tmp_path_factory.mktemp("models") / "B13_rn50_moco_0099_ckpt.pth"
    torch.save({"state_dict": behind("module.encoder_q.", state), "epoch": 100}, file)
    return file, state


def test_a_classifier_of_thirteen_bands_is_tuned_recorded_and_tabled(tmp_path, published):
    file, state = published
    arms = starting_points([file.name], file.parent, {}, "resnet50")
    assert arms == {"B13_rn50_moco_0099_ckpt": str(file)}
    rng = np.random.default_rng(0)
    images = rng.integers(0, 4000, (12, 16, 16, 13)).astype(np.uint16)
    split = Split(np.arange(6), np.arange(6, 9), np.arange(9, 12))
    own = ((0.2,) * 13, (0.1,) * 13)
    config = FinetuneConfig(
        *("resnet50", (1, 0, 0), 6), image_size=16, in_channels=13, statistics=own
    )
    data = images, np.arange(12) % 2, split, ["a", "b"]
    settings = RunSettings(runtime=FLOAT32)
    result = finetune(*data, config, tmp_path, pretrained=str(file), settings=settings)
    learnt = result.model.encoder.state_dict()
    assert all(torch.equal(learnt[key], value) for key, value in state.items())  # but the head
    known = checkpoints.load(result.checkpoint)[1]
    assert known["pretrained"] == file.name
    assert known["pretrained_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [f.name for f in (tmp_path / "runs").iterdir()] == [
        "resnet50_B13_rn50_moco_0099_ckpt_1ep_seed0"
    ]
    loaded, _ = checkpoints.load_classifier(result.checkpoint)
    assert loaded.encoder.statistics == own
    ood = {"scores": {"energy": {"auroc": [0.5, 0.4, 0.6]}}}
    record = write_record(tmp_path / "records", result.checkpoint, str(file), ood=ood)
    assert json.loads(record.read_text())["pretraining"] == file.name
    (row,) = runs_table(read_records(tmp_path / "records")).to_dict("records")
    assert row["configuration"] == "B13_rn50_moco_0099_ckpt" and row["pretrained_on"] == "elsewhere"


def test_another_number_of_bands_leaves_no_run_behind(tmp_path, published):
    config = FinetuneConfig("resnet50", (1, 0, 0), 6, image_size=16)
    images = np.zeros((12, 16, 16, 3), np.uint8)
    split = Split(np.arange(6), np.arange(6, 9), np.arange(9, 12))
    with pytest.raises(CheckpointError, match=r"conv1\.weight is \(64, 13, 7, 7\).*Nothing is"):
        finetune(
            images, np.arange(12) % 2, split, ["a", "b"], config, tmp_path, pretrained=published[0]
        )
    assert list(tmp_path.iterdir()) == []


def test_names_of_arms_tell_files_models_and_checkpoints_apart(tmp_path, monkeypatch):
    config = {"encoder": "custom_cnn", "in_channels": 3, "image_size": 16, "dropout": 0.1}
    state = build_encoder("custom_cnn", 3, 16).state_dict()
    about = {"config": config | {"epochs": 7}}
    own = checkpoints.save(tmp_path / "own.pth", {"encoder": state}, about)
    (tmp_path / "elsewhere").mkdir()
    here, there = tmp_path / "w.pth", tmp_path / "elsewhere/w.pth"
    for file in (here, there):
        torch.save({"model": state}, file)
    names = ["own.pth", "w.pth", str(there), "timm/resnet50.a1_in1k", "imagenet"]
    arms = starting_points(names, tmp_path, {}, "custom_cnn")
    assert arms == {
        "pretrained 7": own,
        "w": str(here),
        f"w ({there})": str(there),
        "resnet50.a1_in1k": "timm/resnet50.a1_in1k",
        "ImageNet": "imagenet",
    }
    with pytest.raises(CheckpointError, match=r"no checkpoint .*resnet50\.nonsense"):
        starting_points(["resnet50.nonsense"], tmp_path, {}, "resnet50")
    assert short_name("timm/vit_base_patch16_224.mae") == "vit_base_patch16_224.mae"


def test_timms_weights_are_fetched_by_name_or_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"weights of resnet50\.a1_in1k could not be fetched"):
        foreign_state("timm/resnet50.a1_in1k", encoder_of("resnet50", 3, 32))
    # another network is told without a network
    with pytest.raises(CheckpointError, match=r"resnet18 does not fit ResNet50: .*layer1\.0\."):
        foreign_state("resnet18", encoder_of("resnet50", 3, 32))
    fetched, create_model = [], timm.create_model

    def fetch(name, *, pretrained, **options):
        fetched.append(create_model(name, **options))
        return fetched[-1]

    monkeypatch.setattr(timm, "create_model", fetch)
    state = foreign_state("resnet50.a1_in1k", encoder_of("resnet50", 2, 32))
    assert state["conv1.weight"].shape[1] == 2
    assert all(torch.equal(state[key], value) for key, value in fetched[-1].state_dict().items())
