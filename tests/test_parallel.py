"""Two processes compute what one does, and a killed one ends the run.

One launch of two real processes (tests/ranks.py) serves all tests that need them: each costs
seconds to start.
"""

import re
import subprocess
import sys
import time

import pytest
import ranks
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from torch import nn

from src import checkpoints
from src.encoders import build_encoder, projection_head
from src.runs.distributed import (
    GlobalBatchNorm,
    World,
    all_reduce_any,
    gather,
    init_distributed,
    shard,
    sync_batch_norm,
    wrap_ddp,
)

ALONE = World()
LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.accelerate_cli",
    "launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--main_process_port",
    "0",
]


@pytest.fixture(scope="module")
def session(command, tmp_path_factory):
    """What two ranks saw, how the launcher ended after rank 1 was killed, how many seconds after,
    and the folder.
    """
    out = tmp_path_factory.mktemp("ranks")
    plain = command("tests.ranks")
    plain["env"]["PYTHONPATH"] = str(plain["cwd"])
    plain["args"] = [*LAUNCH, ranks.__file__, str(out)]
    process = subprocess.run(**plain, capture_output=True, text=True, timeout=240, check=False)
    ended = time.time()
    assert (out / "killed").exists(), process.stderr
    seconds = ended - float((out / "killed").read_text())
    return [torch.load(out / f"rank{k}.pt") for k in (0, 1)], process, seconds, out


@pytest.fixture(scope="module")
def together(session):
    return session[0]


@pytest.fixture(scope="module")
def alone():
    return {run: ranks.train(ALONE, run) for run in ranks.RUNS}


def difference(ours, theirs):
    """‖ours − theirs‖ / ‖theirs‖ over all tensors of two dicts."""
    a, b = (
        torch.cat([tensors[name].flatten().double() for name in theirs])
        for tensors in (ours, theirs)
    )
    return ((a - b).norm() / b.norm()).item()


def update(run):
    """What three steps added to weights and running statistics."""
    first, *_, last = run["state"]
    return {name: last[name] - first[name] for name in first if last[name].is_floating_point()}


# Two processes are one


def test_two_processes_know_each_other(together):
    assert [rank["world"] for rank in together] == [(0, 2, True), (1, 2, False)]


@pytest.mark.parametrize("run", [run for run in ranks.RUNS if "64" in run])
def test_losses_gradients_and_weights_are_those_of_one_process(together, alone, run):
    # in float64, where rounding cannot hide a wrong factor, or be mistaken for one; Adam too: its
    # steps divide by |g|. Each step multiplies the rounding of the one before: losses differ by
    # 1e-15 at first, 1e-12 at the third
    for rank in together:
        for step in range(ranks.STEPS):
            assert rank[run]["loss"][step] == pytest.approx(alone[run]["loss"][step], rel=1e-10)
            assert difference(rank[run]["gradient"][step], alone[run]["gradient"][step]) < 1e-10
        assert difference(update(rank[run]), update(alone[run])) < 1e-9


def test_float32_differs_from_one_process_by_rounding_only(together, alone):
    ours, theirs = together[0]["Adam, float32"], alone["Adam, float32"]
    assert ours["loss"][0] == pytest.approx(theirs["loss"][0], rel=1e-6)
    # measured 7e-6; but a ReLU or max-pool that falls the other way moves it by as much as 1e-2
    # (float64: 2e-14)
    assert difference(ours["gradient"][0], theirs["gradient"][0]) < 2e-2
    # Adam steps by lr · g / |g| at first: where the gradient is 0 but for rounding, its sign is
    # anybody's
    assert difference(update(ours), update(theirs)) < 0.1


@pytest.mark.parametrize("run", ranks.RUNS)
def test_both_ranks_hold_the_same_weights_and_statistics(together, run):
    first, second = (rank[run]["state"][-1] for rank in together)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert difference(first, together[0][run]["state"][0]) > 1e-3  # and have moved


def test_every_epoch_is_dealt_out_without_overlap(together):
    for epoch in (1, 2):
        dealt = [rank["rows"][epoch - 1] for rank in together]
        assert len(dealt[0]) == len(dealt[1]) == ranks.STEPS * ranks.BATCH // 2
        assert sorted(torch.cat(dealt).tolist()) == sorted(ranks.batches(epoch).flatten().tolist())
    assert set(together[0]["rows"][0].tolist()) != set(together[0]["rows"][1].tolist())


def test_one_that_wants_to_stop_stops_both(together):
    assert [rank["agree"] for rank in together] == 2 * [[False, True, True, True]]


def test_a_killed_process_ends_the_run_within_a_minute_and_is_named(session):
    _, process, seconds, _ = session
    assert process.returncode == 1
    assert seconds < 60
    cause = process.stderr.split("Root Cause")[1]
    assert re.search(r"rank +: 1 .*exitcode +: -9 .*Signal 9 \(SIGKILL\)", cause, re.DOTALL)


def test_pretraining_in_two_processes_has_the_history_of_one(together, tmp_path):
    expected = ranks.pretrained(tmp_path, seed=1)
    for rank in together:
        assert rank["history"]["epoch"] == [0, 1, 2]
        assert rank["history"]["loss"][1:] == pytest.approx(expected["loss"][1:], rel=1e-4)


def test_only_the_first_process_writes(together):
    first, second = (rank["written"] for rank in together)
    assert any("run.json" in name for name in first) and any("last.json" in name for name in first)
    assert second == []


def test_one_process_goes_on_where_two_were_killed(session, tmp_path):
    out = session[-1]
    run = out / "runs" / "custom_cnn_2ep_seed2"
    _, about = checkpoints.load(run / "last.pth")
    assert (about["epoch"], about["step"]) == (
        2,
        1,
    )  # the fourth of six steps was the last to be saved
    expected = ranks.pretrained(tmp_path, seed=2)
    history = ranks.pretrained(out, seed=2)
    assert history["epoch"] == [0, 1, 2]
    assert history["loss"][1:] == pytest.approx(expected["loss"][1:], rel=1e-4)


# One process alone


@pytest.mark.parametrize(
    "environment", [{}, {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}]
)
def test_a_plain_run_is_alone_and_does_not_import_accelerate(monkeypatch, environment):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "accelerate", None)  # importing it would fail
    assert init_distributed(torch.device("cpu")) == World(0, 1) and World().first


def test_alone_everything_is_left_as_it_is():
    model, z = nn.BatchNorm1d(3), torch.rand(4, 3)
    assert sync_batch_norm(model, ALONE) is model and wrap_ddp(model, ALONE) is model
    assert gather(z, ALONE) is z and torch.equal(shard(z, ALONE), z)
    assert [all_reduce_any(flag, ALONE) for flag in (False, True)] == [False, True]


def test_one_gpu_for_all_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"cuda:1 for 2 processes: ask for 'cuda'"):
        init_distributed(torch.device("cuda:1"))


def test_a_launcher_that_starts_one_process_instead_of_two_is_refused(monkeypatch):
    # what accelerate itself would hand to the process it starts
    arguments = ["--cpu", "--num_processes", "2", "--num_machines", "1", "script.py"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    _, environment = prepare_simple_launcher_cmd_env(arguments)
    for name in environment.keys() - {"PYTEST_CURRENT_TEST"}:
        monkeypatch.setenv(name, environment[name])
    with pytest.raises(ValueError, match=r"started one process.*--multi_gpu"):
        init_distributed()


def test_a_batch_is_shared_in_order():
    rows = torch.arange(12)
    assert [shard(rows, World(rank, 3)).tolist() for rank in range(3)] == rows.view(3, 4).tolist()


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch of 10 does not divide among 4 processes"):
        shard(torch.arange(10), World(1, 4))


# Batch norm


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4, 3)])
def test_global_batch_norm_of_one_rank_is_batch_norm(shape):
    theirs = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(
        5, eps=1e-3, momentum=0.3
    ).double()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.uniform_(0.5, 2)
    ours = GlobalBatchNorm(theirs.__class__(5, eps=1e-3, momentum=0.3).double(), ALONE)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(2):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        upstream = torch.randn(shape, dtype=torch.float64)
        results = [norm(v) for norm, v in ((theirs, x), (ours, y))]
        for result in results:
            result.backward(upstream)
        torch.testing.assert_close(results[1], results[0])
        torch.testing.assert_close(y.grad, x.grad)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(
        dict(ours.state_dict()), dict(theirs.state_dict())
    )  # the running statistics
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_global_batch_norm_keeps_dtype_and_memory_format():
    x = torch.randn(4, 3, 5, 5).bfloat16().contiguous(memory_format=torch.channels_last)
    y = GlobalBatchNorm(nn.BatchNorm2d(3), ALONE)(x)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["custom_cnn", "resnet50"])
def test_synchronised_replaces_every_batch_norm_and_keeps_weights_and_keys(name):
    encoder = build_encoder(name, image_size=32)
    model = nn.Sequential(encoder, projection_head(encoder.feature_dim))
    keys, parameters = list(model.state_dict()), list(model.parameters())
    norms = sum(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in model.modules())
    assert sync_batch_norm(model, World(0, 2)) is model
    assert sum(isinstance(module, GlobalBatchNorm) for module in model.modules()) == norms
    assert not any(
        isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in model.modules()
    )
    assert list(model.state_dict()) == keys
    assert all(
        a is b for a, b in zip(model.parameters(), parameters, strict=True)
    )  # an optimiser may hold them
