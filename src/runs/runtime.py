"""What a run runs on: device, precision, random numbers, and the record of all three."""

import argparse
import os
import platform
import re
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from src.runs.threads import settle_threads

PRECISIONS = ("auto", "bfloat16", "float32")
SWITCHES = ("compile", "deterministic", "recompute")  # of a `Runtime`, for trainings


@dataclass(frozen=True)
class Runtime:
    """Device and precision of a run, and why they were chosen."""

    device: torch.device
    dtype: torch.dtype  # of the convolutions and matrix products; weights and losses stay float32
    why: str
    # encoder, head and loss of pretraining by torch.compile: changes sums in their last bits
    compile: bool = False
    # the same bits each time on a GPU too: see `reproducible`
    deterministic: bool = False
    # less memory for more time: see `src.encoders.recomputation`
    recompute: bool = False

    def autocast(self) -> torch.autocast:
        """The context in which a network runs: convolutions and products in `dtype`."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    @contextmanager
    def reproducible(self) -> Iterator[None]:
        """The context of a training that is the same to the bit each time, if `deterministic`.

        A CPU's always is. On a GPU, cuDNN then takes only algorithms that add in one order, and so
        do torch's own where they exist, at some cost in speed. A warning of torch's names what has
        no such algorithm; attention's gradient may be among it (ViT).
        """
        if not self.deterministic or self.device.type != "cuda":
            yield
            return
        # read by cuBLAS when a process first multiplies
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        cudnn, before = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
        warned = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            with cudnn.flags(enabled=True, benchmark=False, deterministic=True):
                yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warned)

    @property
    def arithmetic(self) -> str:
        """Precision, and what else may change the last bits of a sum."""
        switches = [name for name in SWITCHES[:2] if getattr(self, name)]
        return ", ".join([str(self.dtype).removeprefix("torch."), *switches])

    def __str__(self) -> str:
        return f"{hardware(self.device)}, {self.arithmetic}: {self.why}"


def pick(
    device: str = "auto",
    precision: str = "auto",
    compile: bool | None = None,
    deterministic: bool = False,
    recompute: bool = False,
) -> Runtime:
    """Choose device ("auto", "cuda", "mps", "cpu") and precision ("auto", "bfloat16", "float32").

    On a CPU that others use, torch gets fewer threads: see `src.runs.threads`.
    A GPU that is there and cannot be used is said in one line: as a warning where the choice is
    automatic, else as the error.

    Args:
        compile, deterministic, recompute: see `Runtime`; None compiles on a GPU.

    Raises:
        ValueError: the device is not on this machine or cannot be used, or the precision is
            unknown.
    """
    cuda, trouble = _usable_gpu()
    mps = torch.backends.mps.is_available()
    devices = ["cuda"] * cuda + ["mps"] * mps + ["cpu"]
    if device == "auto" and trouble:
        warnings.warn(f"computing on the {devices[0]}: {trouble}", stacklevel=2)
    device = devices[0] if device == "auto" else device
    device = str(device)
    kind, _, index = device.partition(":")
    if kind == "cuda" and trouble:
        raise ValueError(f"device {device!r} cannot be used: {trouble}")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in devices or (index and not (index.isdecimal() and int(index) < count)):
        raise ValueError(f"device {device!r} is not on this machine; there is: {devices}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'auto', 'bfloat16' or 'float32', got {precision!r}")
    if precision == "auto":
        dtype, why = _precision(kind)
    else:
        dtype, why = getattr(torch, precision), "precision as asked"
    if kind == "cpu" and (fewer := settle_threads()):
        why = f"{why}; {fewer}"
    compile = kind == "cuda" if compile is None else compile
    return Runtime(torch.device(device), dtype, why, compile, deterministic, recompute)


def runtime_of(model: nn.Module, asked: Runtime | None = None) -> Runtime:
    """What a function computes with that is given a model: as asked, else where the model lies.

    A model that lies elsewhere than asked is moved, and stays there.
    """
    if asked is None:
        first = next(model.parameters(), None)
        return pick() if first is None else pick(str(first.device))
    # weights moved in inference mode could never learn again
    with torch.inference_mode(False):
        model.to(asked.device)
    return asked


def _usable_gpu() -> tuple[bool, str]:
    """Whether there is a GPU that can be used; and if there is one that can't, why."""
    remedy = "install a torch that fits it (SETUP.md), or ask for the CPU"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()  # says no more than a warning of an old driver
    if available:
        built, version = torch.cuda.get_arch_list(), torch.cuda.get_device_capability()
        if _runs_on(built, version):
            return True, ""
        name, architecture = torch.cuda.get_device_name(), "{}.{}".format(*version)
        known = ", ".join(built)
        return False, f"{name} has architecture {architecture}, this torch is of {known}: {remedy}"
    if torch.version.cuda is None and Path("/proc/driver/nvidia/version").exists():
        return False, f"there is an NVIDIA GPU, but this torch is built without CUDA: {remedy}"
    reasons = [str(warning.message).split(". ")[0].strip() for warning in said]
    return False, f"{reasons[0]}: {remedy}" if reasons else ""


def _runs_on(built: list[str], version: tuple[int, int]) -> bool:
    """Whether a torch built for these architectures has kernels for a GPU's."""
    names = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name) for name in built]
    known = [(name[1], (int(name[2]), int(name[3]))) for name in names if name]
    if not known:  # another maker's GPU
        return True
    # compute_ is source, which the driver of a newer GPU compiles
    return any(of <= version and (kind == "compute" or of[0] == version[0]) for kind, of in known)


def _precision(kind: str) -> tuple[torch.dtype, str]:
    """What "auto" means on a kind of device, and why."""
    if kind == "cpu":
        fast = _fast_bfloat16_on_cpu()
        why = "faster than float32" if fast else "bfloat16 would not be faster"
        return torch.bfloat16 if fast else torch.float32, f"{why} on this CPU"
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "this GPU multiplies bfloat16 natively"
    why = "no native bfloat16 here"
    if kind == "cuda":  # older than Ampere, as a T4
        why += ", and float16 is not offered: its gradients would have to be scaled"
    return torch.float32, why


def _fast_bfloat16_on_cpu() -> bool:
    """With AMX, or AVX-512's products on AMD, which are twice as fast as float32's.

    On Intel those are no faster and their sums cost conversions: without AMX, the Custom CNN's step
    takes 1.5 times as long in bfloat16 (Xeon of 2023, torch 2.11 and 2.15).
    """
    # older releases of torch do not say what a CPU can do
    known = hasattr(torch.cpu, "get_capabilities")
    can = torch.cpu.get_capabilities() if known else {}
    if can.get("amx_tile"):
        return True
    return bool(can.get("avx512_bf16")) and "Intel" not in hardware(torch.device("cpu"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a command `--device` and `--precision`, which `from_arguments` reads."""
    parser.add_argument(
        "--device", default="auto", help="cuda, mps or cpu (default: the first there is)"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="of convolutions and products (default: bfloat16 where it is faster)",
    )


def from_arguments(arguments: argparse.Namespace) -> Runtime:
    """What `pick` makes of the options of `add_arguments`, and of a training's own."""
    training = {name: getattr(arguments, name) for name in SWITCHES if name in arguments}
    return pick(arguments.device, arguments.precision, **training)


def seed_of(*key: int) -> int:
    """One 63-bit seed from such as (run seed, epoch, step), well mixed (numpy's SeedSequence).

    Zeros at the end count for nothing: (3, 5) and (3, 5, 0) are one seed.
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*key: int) -> torch.Generator:
    """A CPU generator: what it draws depends on the key alone, on every machine and device."""
    return torch.Generator().manual_seed(seed_of(*key))


def hardware(device: torch.device) -> str:
    """The device's name, for people and records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.machine()
    return f"{device.type} ({model}, {os.cpu_count()} cores)"


def record(runtime: Runtime) -> dict[str, str]:
    """Hardware, precision, versions, git commit and date: plain strings for checkpoints."""
    libraries = ("torch", "torchvision", "timm", "numpy", "scikit-learn")
    return {
        "hardware": hardware(runtime.device),
        "precision": runtime.arithmetic,
        **({"threads": str(torch.get_num_threads())} if runtime.device.type == "cpu" else {}),
        "python": platform.python_version(),
        "commit": _commit() or "not a git checkout",
        "date": date.today().isoformat(),
        **{name: _version(name) for name in libraries},
    }


def _commit() -> str:
    """Of the checkout; else what `GIT_COMMIT` says, as containers are told; else empty."""
    command, folder = ["git", "describe", "--always", "--dirty"], Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = done.stdout.strip()
    except (OSError, ValueError):  # no such program; a name that is no text
        found = ""
    return found or os.environ.get("GIT_COMMIT", "")


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # put on the path by hand
        return "unknown"
