"""What a step asks of a GPU, counted without one: kernels, and where the host waits for them.

torch's fake tensors say that they are on a GPU and hold no numbers; every operation on them is seen
and none computed. An operation counts as one kernel, views of tensors as none: real steps launch
more (a sum over a large tensor is two).
"""

import collections
import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.training import ceiling, network
from src import augmentations
from src.augmentations import SimCLRAugmentation, blocks
from src.augmentations.blocks import two_views, views
from src.augmentations.transfer import constant
from src.pretrain import PretrainConfig
from src.runs import batches
from src.runs.batches import steps_at_once
from src.runs.distributed import ALONE
from src.runs.memory import step_memory
from src.runs.runtime import pick

ROOT = Path(__file__).resolve().parents[1]
# operations that launch nothing: another look at the same memory, or memory that is not filled
NO_KERNEL = """
    _reshape_alias _unsafe_view alias as_strided chunk contiguous detach detach_ device diagonal
    empty empty_like empty_strided expand flatten is_contiguous is_pinned lift_fresh mT movedim
    new_empty new_empty_strided permute record_stream reshape select size slice split
    split_with_sizes squeeze t to transpose unbind unflatten unsqueeze view view_as
    """
NO_KERNEL = frozenset(NO_KERNEL.split())
# operations whose result the host must know before it goes on
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "item", "equal", "unique"}


class Counted(TorchDispatchMode):
    """Counts what runs inside: `kernels` by name, `waits` by kind and where in `src`."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: collections.Counter = collections.Counter()
        self.waits: collections.Counter = collections.Counter()
        self.pinned: set[int] = set()  # storages that were pinned

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        result = function(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        kinds_in, kinds_out = ({x.device.type for x in some} for some in (given, made))
        if "cuda" not in kinds_in | kinds_out:
            return result
        name = function._schema.name.split("::")[1]
        if name in ("_to_copy", "copy_") and "cpu" in kinds_in | kinds_out:
            self._copied(name, args, kwargs or {}, "cpu" in kinds_out)
        elif name in WAITS:
            self.waited(name)
        if name not in NO_KERNEL:
            self.kernels[name] += 1
        return result

    def _copied(self, name: str, args: tuple, kwargs: dict, to_host: bool) -> None:
        asynchronous = kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,))
        source = args[1] if name == "copy_" else args[0]
        if not asynchronous:
            self.waited("to the host" if to_host else "to the device")
        elif not to_host and source.untyped_storage()._cdata not in self.pinned:
            self.waited("to the device, from memory that is not pinned")

    def waited(self, what: str) -> None:
        """Note that the host waits here."""
        frame = sys._getframe(1)
        while frame and not frame.f_code.co_filename.startswith(str(ROOT / "src")):
            frame = frame.f_back
        code = frame and frame.f_code
        where = f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_name}" if code else "?"
        self.waits[f"{what}: {where}"] += 1

    @property
    def total(self) -> int:
        """Kernels of all kinds."""
        return sum(self.kernels.values())


class _Now:
    """In place of a pool of threads, to which modes of dispatch do not reach: at once."""

    def __init__(self, workers: int) -> None:
        pass

    def __enter__(self) -> "_Now":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function, *arguments):
        result = function(*arguments)
        return mock.Mock(result=lambda: result)


class _Generator(torch.Generator):
    """On the CPU, wherever it is asked for."""

    def __new__(cls, device: object = "cpu") -> "_Generator":
        return super().__new__(cls)


@contextlib.contextmanager
def fake_cuda(memory: float = 80e9) -> Iterator[Counted]:
    """A machine with one GPU, as far as `src` can tell; what runs inside is counted.

    memory: bytes that are free on the GPU.
    """
    counted = Counted()
    with contextlib.ExitStack() as stack:
        for target, name, stand_in in _stand_ins(counted, int(memory)):
            stack.enter_context(mock.patch.object(target, name, stand_in))
        constant.cache_clear()  # what is kept for all calls must be fake too, and not stay
        stack.callback(constant.cache_clear)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(counted)


def _stand_ins(counted: Counted, memory: int) -> list[tuple[object, str, object]]:
    """(module or class, name, what takes its place) of all that asks a real GPU something."""
    on_cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "no GPU at all",
        "get_device_capability": lambda device=None: (9, 0),
        "get_arch_list": lambda: ["sm_75", "sm_90"],
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (memory, memory),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "manual_seed_all": lambda seed: None,
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda device=None: counted.waited("synchronize"),
        "Stream": mock.MagicMock(),
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": mock.MagicMock(),
    }
    return [
        *((torch.cuda, name, stand_in) for name, stand_in in on_cuda.items()),
        (torch, "Generator", _Generator),
        (FakeTensorMode, "avoid_device_init", True),
        (fake_tensor, "init_gpu_context", lambda device: None),
        (torch.random, "fork_rng", lambda *_: contextlib.nullcontext()),
        (batches, "ThreadPoolExecutor", _Now),
        (Tensor, "record_stream", lambda *_: None),
        *_of_tensors(counted),
    ]


def _swap(one: Tensor, other: Tensor) -> None:
    """As torch's, which refuses fake tensors: torch itself keeps weak references to them."""
    one.__class__, other.__class__ = other.__class__, one.__class__
    one.__dict__, other.__dict__ = other.__dict__, one.__dict__
    torch._C._swap_tensor_impl(one, other)


@torch.no_grad()
def _gradients(loss: Tensor) -> dict[Tensor, Tensor]:
    """Leaf → gradient. torch's own engine asks a real GPU for its streams; this one calls the same
    functions of the graph, in an order that it may call them in.
    """
    graph, waiting, found = [loss.grad_fn], collections.Counter(), {}
    for node in graph:
        for following in _following(node):
            waiting[following] += 1
            if waiting[following] == 1:
                graph.append(following)
    received = {node: [None] * len(node._input_metadata) for node in graph}
    received[loss.grad_fn][0], ready = torch.ones_like(loss), [loss.grad_fn]
    while ready:
        node = ready.pop()
        given = received.pop(node)
        if hasattr(node, "variable"):
            found[node.variable] = given[0]
            continue
        made = node(*given)
        made = made if isinstance(made, tuple) else (made,)
        for (following, number), gradient in zip(node.next_functions, made, strict=True):
            if following and gradient is not None:
                _receive(received[following], number, gradient, following._input_metadata[number])
        for following in _following(node):
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)
    return found


def _receive(received: list[Tensor | None], number: int, gradient: Tensor, expected: Any) -> None:
    if gradient.shape != expected.shape:  # of what was expanded
        gradient = gradient.sum_to_size(expected.shape)
    gradient, before = gradient.to(expected.dtype), received[number]
    received[number] = gradient if before is None else before + gradient


def _following(node: object) -> set:
    return {following for following, _ in node.next_functions if following}


def _backward(loss: Tensor, **options) -> None:
    for leaf, gradient in _gradients(loss).items():
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _grad(loss: Tensor, leaf: Tensor) -> tuple[Tensor]:
    return (_gradients(loss)[leaf],)


def _of_tensors(counted: Counted) -> Iterator[tuple[object, str, object]]:
    """Pinned memory is any that is noted as pinned; numbers that fake tensors lack are any."""
    new_empty, real_numpy, real_item, kept = torch.empty, Tensor.numpy, Tensor.item, []

    def pinned(tensor: Tensor) -> Tensor:
        kept.append(tensor)  # or another storage might get its address
        counted.pinned.add(tensor.untyped_storage()._cdata)
        return tensor

    def empty(*shape, pin_memory: bool = False, **options) -> Tensor:
        made = new_empty(*shape, **options)
        return pinned(made) if pin_memory else made

    def numpy(tensor: Tensor, **options):
        if not isinstance(tensor, FakeTensor):
            return real_numpy(tensor, **options)
        with unset_fake_temporarily():
            made = torch.linspace(0.1, 0.9, tensor.numel()).view(tuple(tensor.shape))
            return real_numpy(made.to(tensor.dtype))

    def item(tensor: Tensor):
        if not isinstance(tensor, FakeTensor):
            return real_item(tensor)
        if tensor.is_cuda:
            counted.waited("item")
        return 0

    yield torch.utils, "swap_tensors", _swap
    yield Tensor, "backward", _backward
    yield torch.autograd, "grad", _grad
    yield torch, "empty", empty
    yield Tensor, "pin_memory", lambda tensor, device=None: pinned(tensor.clone())
    yield Tensor, "numpy", numpy
    yield Tensor, "item", item


# --- tables ---

LAUNCH = 5e-6  # seconds of the host for a launch


def table(encoders: tuple[str, ...], batch_sizes: tuple[int, ...]) -> list[dict]:
    """One row an encoder and batch size: launches a step, and what they allow."""
    rows, host_before = [], host_seconds(apart, 1)
    for encoder, batch in itertools.product(encoders, batch_sizes):
        alone, at_once = network_launches(encoder, batch), steps_at_once(2 * batch * 3 * 120**2)
        before, now = (alone + views_launches(batch, pairs) for pairs in (apart, views))
        rows.append(
            {
                "what": f"{encoder}, batch {batch:,}",
                "network, loss, Adam": round(alone),
                "views, before": round(before - alone),
                "views": float(now - alone),
                "a step, before": round(before),
                "a step": round(now),
                "host for views, before, ms": 1000 * host_before,
                "host for views, ms": 1000 * host_seconds(views, at_once),
                "views/s, before": 2 * batch / (before * LAUNCH),
                "views/s": 2 * batch / (now * LAUNCH),
            }
        )
    return rows


def apart(*arguments: Any) -> tuple[Tensor, Tensor]:
    """As `views`, but not known to work on several steps at once."""
    return views(*arguments)


def network_launches(encoder: str, batch: int) -> int:
    """Of a step of the network alone: forward, loss, backward, optimizer."""
    with fake_cuda() as counted:
        step = ceiling(PretrainConfig(encoder=encoder, batch_size=batch), pick(compile=False))
        step()
        before = counted.total
        step()
    return counted.total - before


def views_launches(batch: int, pairs: Callable) -> float:
    """Of a step's batch and views, over a whole block of steps where there is one."""
    steps = STEPS if pairs is views else 1
    with fake_cuda() as counted:
        stored = torch.empty(batch, 120, 120, 3, dtype=torch.uint8, device="cuda")
        rows_S_n = torch.zeros(steps, batch, dtype=torch.int64)
        given = batches.batches(stored, rows_S_n, torch.device("cuda"))
        made = two_views(given, (0, 1, 0), SimCLRAugmentation(), ALONE, torch.bfloat16, pairs)
        collections.deque(made, 0)
    return counted.total / steps


def host_seconds(pairs: Callable, steps: int) -> float:
    """A step's views of one image of 8 pixels, in a block of so many steps: there is nothing to
    compute, what is left is the host's own time.
    """
    given = [torch.zeros(1, 8, 8, 3, dtype=torch.uint8).permute(0, 3, 1, 2)] * steps
    augment, seconds = SimCLRAugmentation(8), []
    with (
        mock.patch.object(blocks, "IN_BLOCKS", {"cpu"}),
        mock.patch.object(augmentations, "CPU_CHUNK", 2 * STEPS),
    ):
        for _ in range(100):
            started = time.perf_counter()
            collections.deque(two_views(given, (0, 1, 0), augment, pairs=pairs), 0)
            seconds.append((time.perf_counter() - started) / steps)
    return min(seconds)  # others only ever add to it


STEPS = 16


def memory_table(encoders: tuple[str, ...], batch_sizes: tuple[int, ...]) -> list[dict]:
    """One row an encoder and size of its views: GB of a step, by batch size, and recomputed."""
    rows = []
    for encoder, pixels in itertools.product(encoders, (64, 224)):
        row: dict[str, Any] = {"what": f"{encoder}, {pixels} px"}
        for batch, recompute in itertools.product(batch_sizes, (False, True)):
            config = PretrainConfig(encoder=encoder, image_size=pixels)
            with fake_cuda():
                runtime = pick("cuda", recompute=recompute)
                model = network(config, runtime.device, torch.channels_last)
                taken = step_memory(model, (2 * batch, 3, pixels, pixels), runtime)
            row[f"{batch:,}{', recomputed' if recompute else ''}"] = taken / 1e9
        rows.append(row)
    return rows
