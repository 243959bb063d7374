"""Compiled, recomputed, counted: what may change about a step is its speed and its memory."""

import copy
import functools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.augmentations import blocks
from src.encoders import ENCODERS, build_encoder, projection_head
from src.encoders.recomputation import recompute_activations
from src.losses import nt_xent
from src.pretrain import Hooks, PretrainConfig, pretrain
from src.runs import RunSettings
from src.runs.compiling import compiled
from src.runs.memory import step_memory
from src.runs.runtime import pick

CONFIG = PretrainConfig(epochs=1, batch_size=4, image_size=16, projection=(16, 8))
IMAGES = np.random.default_rng(0).integers(0, 256, (72, 20, 20, 3), dtype=np.uint8)  # 18 steps


def train(out, hooks=Hooks(), config=CONFIG, **how):
    saved = {name: how.pop(name) for name in ("save_steps", "resume") if name in how}
    settings = RunSettings(runtime=pick("cpu", "float32", **how), **saved)
    return pretrain(IMAGES, config, out, settings=settings, hooks=hooks)


def weights(run):
    return run.encoder.state_dict()


def equal(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"))


# Blocks


def test_a_run_stopped_in_the_middle_of_a_block_of_views_ends_as_one_without_blocks(
    monkeypatch, tmp_path, plain
):
    monkeypatch.setattr(blocks, "IN_BLOCKS", {"cpu"})
    calls = []

    @functools.wraps(nt_xent)  # the same loss, which only breaks off
    def breaks(z_i, z_j, temperature):
        calls.append(1)
        if len(calls) == 7:
            raise InterruptedError
        return nt_xent(z_i, z_j, temperature)

    with pytest.raises(InterruptedError):
        train(tmp_path, Hooks(loss=breaks), save_steps=2)
    done = train(tmp_path, save_steps=2)
    assert equal(weights(done), weights(plain))
    assert done.history["loss"].tolist()[1:] == plain.history["loss"].tolist()[1:]


# torch.compile


@pytest.fixture
def eager_graphs(monkeypatch):
    """Graphs are made and run as they are: compiling them takes half a minute."""
    calls = []

    def compile(function, **how):
        calls.append(how)
        return real(function, backend="aot_eager", **how)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile)
    return calls


def test_a_compiled_training_is_the_eager_one_up_to_rounding(eager_graphs, tmp_path, plain):
    done = train(tmp_path, compile=True)
    assert eager_graphs == [{"dynamic": False}] * 2
    for key, value in weights(done).items():
        torch.testing.assert_close(value, weights(plain)[key], rtol=1e-3, atol=1e-4)
    assert done.history["loss"][1] == pytest.approx(plain.history["loss"][1], rel=1e-4)


def test_a_training_that_cannot_be_compiled_says_so_in_one_line_and_is_the_eager_one(
    monkeypatch, tmp_path, plain
):
    def compile(function, **how):
        def fails(*_):
            raise RuntimeError("no compiler here\nand more")

        return fails

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.warns(UserWarning, match=r"without torch.compile.*: no compiler here$"):
        done = train(tmp_path, compile=True)
    assert equal(weights(done), weights(plain))


def test_no_hint_about_the_losss_float32_is_passed_on(monkeypatch, tmp_path, plain):
    """torch gives it as it compiles, on GPUs that could multiply with fewer bits."""

    def compile(function, **how):
        def hints(*args):
            warnings.warn("TensorFloat32 tensor cores for float32 …", stacklevel=2)
            return function(*args)

        return hints

    monkeypatch.setattr(torch, "compile", compile)
    with warnings.catch_warnings():
        # in training the functions are compiled already, and say it no more
        warnings.filterwarnings("error", "training goes on")
        warnings.filterwarnings("ignore", "TensorFloat32", module="src.pretrain")
        done = train(tmp_path, compile=True)
    assert equal(weights(done), weights(plain))


@pytest.mark.filterwarnings("ignore:.*goes on in another environment")
def test_compiled_or_not_is_no_part_of_a_runs_identity(eager_graphs, tmp_path):
    train(tmp_path, config=replace(CONFIG, batch_size=42))
    assert train(
        tmp_path, config=replace(CONFIG, batch_size=42), compile=True
    )  # the finished run, as it is
    assert not eager_graphs  # which nothing is compiled for


def test_several_processes_and_recomputation_are_not_compiled(eager_graphs):
    model, runtime = network("custom_cnn"), pick("cpu", "float32", compile=True, recompute=True)
    assert compiled(model, nt_xent, runtime, (4, 3, 16, 16)) == (model, nt_xent)


# Less memory


def network(name, size=32, recompute=False):
    torch.manual_seed(0)
    encoder = build_encoder(name, image_size=size)
    if name == "vit_b_16":  # two of its twelve blocks are as good
        encoder.blocks = encoder.blocks[:2]
    if recompute:
        recompute_activations(encoder)
    return torch.nn.Sequential(encoder, projection_head(encoder.feature_dim, (32, 16)))


def stepped(model, saved=None):
    """Loss, and state and gradients after one step, of a model in training."""
    both = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)  # dropout's
    loss = nt_xent(*model.train()(both).chunk(2))
    loss.backward()
    return loss, model.state_dict(), {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", ENCODERS)
def test_recomputed_activations_change_no_loss_no_gradient_and_no_average(name):
    plain = network(name)
    less = copy.deepcopy(plain)
    recompute_activations(less[0])
    (loss, state, gradients), (loss_less, state_less, gradients_less) = map(stepped, (plain, less))
    assert torch.equal(loss, loss_less)
    assert state.keys() == state_less.keys() and equal(state, state_less)
    assert equal(gradients, gradients_less)


def kept_for_backward(model):
    """Bytes that autograd keeps of a real step, each storage once, without the weights."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    both = torch.randn(8, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = nt_xent(*model.train()(both).chunk(2))
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    return loss, sum(size for at, size in storages.items() if at not in own)


@pytest.mark.parametrize("name", ["custom_cnn", "resnet50"])
def test_the_memory_counted_is_what_autograd_keeps(name):
    model, runtime = network(name), pick("cpu", "float32")
    weights = sum(parameter.nbytes for parameter in model.parameters())
    counted = step_memory(model, (8, 3, 32, 32), runtime) - 4 * weights
    _, kept = kept_for_backward(model)
    assert counted == pytest.approx(kept, rel=0.05)
    less = step_memory(model, (8, 3, 32, 32), pick("cpu", "float32", recompute=True))
    assert less - 4 * weights < 0.7 * counted


def test_counting_memory_leaves_the_model_as_it_was():
    model = network("custom_cnn", recompute=True).eval()
    before = copy.deepcopy(model.state_dict())
    step_memory(model, (8, 3, 32, 32), pick("cpu", "float32", recompute=True))
    assert equal(before, model.state_dict()) and not model.training
    stepped(model)  # and real


def test_a_training_that_recomputes_is_the_plain_one(tmp_path, plain):
    assert equal(weights(train(tmp_path, recompute=True)), weights(plain))
