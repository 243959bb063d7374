"""What a run runs on: device, precision, random numbers, and the record of all three."""

import argparse
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

PRECISIONS = ("auto", "bfloat16", "float32")


@dataclass(frozen=True)
class Runtime:
    """Device and precision of a run, and why they were chosen."""

    device: torch.device
    dtype: torch.dtype  # of the convolutions and matrix products; weights and losses stay float32
    why: str

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    def __str__(self) -> str:
        return f"{hardware(self.device)}, {str(self.dtype).removeprefix('torch.')}: {self.why}"


def pick(device: str = "auto", precision: str = "auto") -> Runtime:
    """Choose device ("auto", "cuda", "mps", "cpu") and precision ("auto", "bfloat16", "float32").

    Raises:
        ValueError: the device is not on this machine, or the precision is unknown.
    """
    found = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, there in found.items() if there)
    kind = device.split(":")[0]
    if not found.get(kind):
        raise ValueError(
            f"device {device!r} is not on this machine; there is:"
            f" {[n for n, t in found.items() if t]}"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'auto', 'bfloat16' or 'float32', got {precision!r}")
    if precision != "auto":
        return Runtime(torch.device(device), getattr(torch, precision), "precision as asked")
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return Runtime(
            torch.device(device), torch.bfloat16, "this GPU multiplies bfloat16 natively"
        )
    if kind == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    ):
        return Runtime(
            torch.device(device), torch.bfloat16, "this CPU multiplies bfloat16 natively"
        )
    return Runtime(torch.device(device), torch.float32, "no native bfloat16 here")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a command `--device` and `--precision`, which `from_arguments` reads."""
    parser.add_argument(
        "--device", default="auto", help="cuda, mps or cpu (default: the first there is)"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="of convolutions and products (default: bfloat16 where the device has it)",
    )


def from_arguments(arguments: argparse.Namespace) -> Runtime:
    """What `pick` makes of a command's `--device` and `--precision`."""
    return pick(arguments.device, arguments.precision)


def seed_of(*key: int) -> int:
    """One 63-bit seed from a tuple such as (run seed, epoch, step), well mixed (numpy
    SeedSequence).

    Zeros at the end count for nothing: (3, 5) and (3, 5, 0) are one seed.
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*key: int) -> torch.Generator:
    """A CPU generator for this key: the numbers drawn depend on the key alone, on every machine and
    device.
    """
    return torch.Generator().manual_seed(seed_of(*key))


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    return f"{device.type} ({model}, {os.cpu_count()} cores)"


def record(runtime: Runtime) -> dict[str, str]:
    """Hardware, precision, library versions, git commit and date, as plain strings for checkpoints
    and tables.
    """
    libraries = {
        name: version(name) for name in ("torch", "torchvision", "timm", "numpy", "scikit-learn")
    }
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "hardware": hardware(runtime.device),
        "precision": str(runtime.dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "commit": commit or "not a git checkout",
        "date": date.today().isoformat(),
        **libraries,
    }
