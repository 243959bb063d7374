"""A batch is the same batch, whether its images lie on the device or are streamed to it."""

import numpy as np
import pytest
import torch

from src.runs import batches as module
from src.runs.batches import batches, to_device_if_it_fits

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("steps", [0, 1, 15, 16, 40])  # 16 make a block
def test_streamed_and_resident_batches_are_the_same_bit_by_bit(dtype, steps):
    rng = np.random.default_rng(0)
    images = rng.integers(0, np.iinfo(dtype).max, (50, 6, 5, 3), dtype=dtype, endpoint=True)
    rows = torch.from_numpy(rng.integers(0, 50, (steps, 4)))
    data = to_device_if_it_fits(images, CPU)
    streamed, direct = (list(batches(data, rows, CPU, stream=stream)) for stream in (True, False))
    assert len(streamed) == len(direct) == steps
    for step, (a, b) in enumerate(zip(streamed, direct, strict=True)):
        expected = images[rows[step].numpy()].transpose(0, 3, 1, 2)
        assert a.dtype == b.dtype == (torch.uint8 if dtype == np.uint8 else torch.uint16)
        np.testing.assert_array_equal(a.numpy(), expected)
        np.testing.assert_array_equal(b.numpy(), expected)


def test_a_streamed_block_is_read_while_the_one_before_is_used_and_never_changes_under_the_reader():
    images = np.arange(64, dtype=np.uint8).reshape(64, 1, 1, 1)
    rows = torch.arange(64).view(64, 1)
    stream = batches(torch.as_tensor(images), rows, CPU, stream=True)
    kept = list(stream)  # all of them at once: the buffer must not have been used for two
    assert [int(batch) for batch in kept] == list(range(64))


def test_what_breaks_in_the_reading_thread_is_raised_where_the_batch_is_asked_for():
    with pytest.raises(IndexError, match="index out of range"):
        list(
            batches(
                torch.zeros(4, 2, 2, 3, dtype=torch.uint8), torch.tensor([[0, 4]]), CPU, stream=True
            )
        )


@pytest.mark.parametrize(("free", "there"), [(99, False), (101, True)])
def test_images_go_to_the_gpu_if_they_take_less_than_half_of_what_is_free(monkeypatch, free, there):
    moved = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * free, 1000))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moved.append(device) or tensor)
    device = torch.device("cuda")
    module.to_device_if_it_fits(np.zeros((100, 1, 1, 1), np.uint8), device)
    assert moved == ([device] if there else [])


def test_memory_that_pytorch_keeps_for_itself_counts_as_free(monkeypatch):
    for name, value in (("memory_reserved", 700), ("memory_allocated", 200)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    assert module.free_memory(torch.device("cuda")) == 600
