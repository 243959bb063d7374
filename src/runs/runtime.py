"""What a run runs on: device, precision, random numbers, and the record of all three."""

import argparse
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
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
        """The context in which a network runs: convolutions and products in `dtype`."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    def __str__(self) -> str:
        return f"{hardware(self.device)}, {str(self.dtype).removeprefix('torch.')}: {self.why}"


def pick(device: str | torch.device = "auto", precision: str = "auto") -> Runtime:
    """Choose device ("auto", "cuda", "mps", "cpu") and precision ("auto", "bfloat16", "float32").

    Raises:
        ValueError: the device is not on this machine, or the precision is unknown.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    devices = ["cuda"] * cuda + ["mps"] * mps + ["cpu"]
    device = devices[0] if device == "auto" else str(device)
    kind = device.split(":")[0]
    if kind not in devices:
        raise ValueError(f"device {device!r} is not on this machine; there is: {devices}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'auto', 'bfloat16' or 'float32', got {precision!r}")
    if precision != "auto":
        return Runtime(torch.device(device), getattr(torch, precision), "precision as asked")
    if not _has_bfloat16(kind):
        return Runtime(torch.device(device), torch.float32, "no native bfloat16 here")
    name = {"cuda": "GPU", "cpu": "CPU"}[kind]
    why = f"this {name} multiplies bfloat16 natively"
    return Runtime(torch.device(device), torch.bfloat16, why)


def _has_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # older releases of torch do not say what a CPU can do
    known = kind == "cpu" and hasattr(torch.cpu, "get_capabilities")
    capabilities = torch.cpu.get_capabilities() if known else {}
    return any(capabilities.get(name) for name in ("amx_tile", "avx512_bf16"))


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
        "precision": str(runtime.dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "commit": _commit() or "not a git checkout",
        "date": date.today().isoformat(),
        **{name: _version(name) for name in libraries},
    }


def _commit() -> str:
    """Of the checkout; empty where it is none, or there is no git, as in most containers."""
    command, folder = ["git", "describe", "--always", "--dirty"], Path(__file__).parent
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False
        ).stdout.strip()
    except (OSError, ValueError):  # no such program; a name that is no text
        return ""


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # put on the path by hand
        return "unknown"
