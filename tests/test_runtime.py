"""Seeds that depend on their key alone, the choice of device and precision, and the record of
both.
"""

import json
import re
import warnings

import numpy as np
import pytest
import torch

from src.runs.runtime import generator, pick, record, seed_of


def test_seed_depends_on_the_key_alone():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 — global state is the point
    first = seed_of(3, 1, 4)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert seed_of(3, 1, 4) == first


def test_seed_is_the_same_on_every_machine():
    # written out: a changed mixing would silently make published runs impossible to repeat
    expected = np.random.SeedSequence((0, 2, 5)).generate_state(2, np.uint32).astype(object)
    assert seed_of(0, 2, 5) == (int(expected[0]) + (int(expected[1]) << 32)) >> 1


def test_seeds_of_near_keys_are_distinct_and_fit_63_bits():
    keys = [(run, epoch, step) for run in range(5) for epoch in range(10) for step in range(40)]
    seeds = {seed_of(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # well mixed over the whole range, not small numbers


def test_order_of_the_key_matters():
    assert len({seed_of(1, 2), seed_of(2, 1), seed_of(1, 2, 3), seed_of(1), seed_of(2)}) == 5


def test_negative_key_is_refused():
    with pytest.raises(ValueError):
        seed_of(-1)


def test_generators_of_one_key_draw_the_same_numbers():
    assert torch.equal(
        torch.rand(8, generator=generator(1, 2)), torch.rand(8, generator=generator(1, 2))
    )


def test_generators_of_other_keys_draw_other_numbers():
    draws = {tuple(torch.rand(4, generator=generator(0, n)).tolist()) for n in range(100)}
    assert len(draws) == 100


def test_making_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(7))
    assert torch.equal(torch.get_rng_state(), before)


def test_generator_lives_on_the_cpu():
    assert generator(0).device.type == "cpu"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pick_takes_what_is_asked(precision):
    runtime = pick("cpu", precision)
    assert (runtime.device.type, runtime.dtype) == ("cpu", getattr(torch, precision))
    assert "as asked" in runtime.why


def test_pick_chooses_by_itself():
    runtime = pick()
    best = (
        "cuda"
        if torch.cuda.is_available()
        else "mps"
        if torch.backends.mps.is_available()
        else "cpu"
    )
    assert runtime.device.type == best
    assert runtime.dtype in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("can", "name", "dtype"),
    [
        ({}, "AMD EPYC", torch.float32),
        ({"amx_tile": True, "avx512_bf16": True}, "Intel(R) Xeon(R) Processor", torch.bfloat16),
        ({"avx512_bf16": True}, "AMD EPYC", torch.bfloat16),
        # measured: 1.5 times slower than float32
        ({"avx512_bf16": True}, "Intel(R) Xeon(R) Processor", torch.float32),
    ],
)
def test_cpu_gets_bfloat16_only_where_it_is_faster(monkeypatch, can, name, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    monkeypatch.setattr("src.runs.runtime.hardware", lambda device: name)
    runtime = pick("cpu")
    assert runtime.dtype == dtype and "on this CPU" in runtime.why


@pytest.mark.parametrize("device", ["tpu", "cuda"])
def test_missing_device_is_refused_and_the_others_named(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"{device}.*not on this machine.*cpu"):
        pick(device)


@pytest.mark.parametrize("precision", ["float16", "fp32", ""])
def test_unknown_precision_is_refused(precision):
    with pytest.raises(ValueError, match="precision must be"):
        pick("cpu", precision)


def test_autocast_is_on_for_bfloat16_and_off_for_float32():
    a = torch.ones(2, 2)
    with pick("cpu", "bfloat16").autocast():
        assert (a @ a).dtype == torch.bfloat16
    with pick("cpu", "float32").autocast():
        assert (a @ a).dtype == torch.float32


def test_float32_runtime_switches_a_surrounding_autocast_off():
    a = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16), pick("cpu", "float32").autocast():
        assert (a @ a).dtype == torch.float32


def test_runtime_says_what_it_is_in_one_line():
    text = str(pick("cpu", "bfloat16"))
    assert re.fullmatch(r"cpu \(.+ cores\), bfloat16: precision as asked", text)


def test_record_holds_plain_strings():
    # type, not isinstance: torch's version is a str subclass that a weights-only load would refuse
    facts = record(pick("cpu", "float32"))
    assert {type(value) for value in facts.values()} == {str}
    assert all(facts.values())
    assert json.loads(json.dumps(facts)) == facts


def test_record_names_hardware_precision_and_libraries():
    facts = record(pick("cpu", "bfloat16"))
    assert facts["precision"] == "bfloat16"
    assert facts["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["hardware"].startswith("cpu (")
    assert {"torchvision", "numpy", "scikit-learn", "python", "commit"} <= facts.keys()


def unusable(monkeypatch, **asked):
    """The line that `pick` says where torch.cuda answers as told."""
    for name, answer in asked.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    with pytest.warns(UserWarning) as said:
        chosen = pick()
    assert chosen.device.type != "cuda" and len(said) == 1
    with pytest.raises(ValueError, match="'cuda' cannot be used: ") as error:
        pick("cuda")
    line = str(said[0].message)
    assert line.startswith("computing on the ") and "\n" not in line
    assert str(error.value).split("used: ")[1] == line.split(": ", 1)[1]
    return line


def test_a_driver_that_is_too_old_is_said_in_one_line(monkeypatch):
    def available():
        text = "CUDA initialization: The NVIDIA driver on your system is too old (found version"
        warnings.warn(f"{text} 11040). Please update your GPU driver … (Triggered …)", stacklevel=1)
        return False

    line = unusable(monkeypatch, is_available=available)
    assert "driver on your system is too old (found version 11040): install a torch" in line


GPU = {"is_available": lambda: True, "get_device_name": lambda device=None: "Tesla"}
CURRENT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


def architecture(major, minor):
    return {**GPU, "get_device_capability": lambda device=None: (major, minor)}


@pytest.mark.parametrize("version", [(6, 1), (7, 0), (3, 5)])
def test_an_architecture_that_torch_has_no_kernels_for_is_said_in_one_line(monkeypatch, version):
    how = {**architecture(*version), "get_arch_list": lambda: CURRENT}
    line = unusable(monkeypatch, **how)
    assert "Tesla has architecture {}.{}, this torch is of sm_75, ".format(*version) in line


@pytest.mark.parametrize(
    ("version", "built"),
    [
        ((7, 5), CURRENT),
        ((8, 9), CURRENT),  # runs what is built for 8.6
        ((9, 0), ["sm_80", "sm_90a"]),
        ((12, 1), CURRENT),
        ((13, 0), CURRENT),  # compiled by its driver
        ((9, 4), ["gfx942"]),  # another maker's
    ],
)
def test_an_architecture_that_torch_has_kernels_for_is_taken(monkeypatch, version, built):
    how = {"get_arch_list": lambda: built, "is_bf16_supported": lambda **_: version >= (8, 0)}
    for name, answer in (architecture(*version) | how).items():
        monkeypatch.setattr(torch.cuda, name, answer)
    runtime = pick()
    assert (runtime.device.type, runtime.compile) == ("cuda", True)
    assert runtime.dtype == (torch.bfloat16 if version >= (8, 0) else torch.float32)
    assert ("float16 is not offered" in runtime.why) == (version < (8, 0))


@pytest.mark.parametrize("device", ["cuda:1", "cuda:x", "cpu:1", "cuda:-1"])
def test_a_device_of_a_number_that_is_not_there_is_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", list)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    with pytest.raises(ValueError, match="is not on this machine"):
        pick(device)


def test_what_changes_the_last_bits_is_recorded_with_the_precision():
    runtime = pick("cpu", "float32", compile=True, deterministic=True, recompute=True)
    assert record(runtime)["precision"] == "float32, compile, deterministic"
    assert not pick("cpu").compile  # by itself on a GPU only
