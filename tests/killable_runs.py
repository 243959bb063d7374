"""Trainings that tests start in other processes and kill; apart, so that a process starts fast."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from src import checkpoints
from src.data.splits import Split
from src.finetune import FinetuneConfig, finetune
from src.pretrain import PretrainConfig, pretrain
from src.runs import RunSettings
from src.runs.runtime import pick

# A forked child of pytest itself could wait for ever for a lock that some thread of pytest's held
# at that moment.
context = multiprocessing.get_context("forkserver")
# not this file: tests/ is not on its path
context.set_forkserver_preload(["pytest", "src.pretrain", "src.finetune"])

LARGE = bool(os.environ.get("SOAK"))  # make soak: minutes, and the study's size of network input
SIZE, IMAGES, BATCH, EPOCHS = (64, 240, 32, 12) if LARGE else (16, 60, 4, 8)
RNG = np.random.default_rng(0)
DATA = RNG.integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
LABELS = np.arange(IMAGES) % 3
THIRDS = np.split(np.arange(IMAGES), [IMAGES * 2 // 3, IMAGES * 5 // 6])


def train_simclr(out: Path, pause: float = 0.0, **saving) -> None:
    torch.set_num_threads(1)
    config = PretrainConfig(
        epochs=EPOCHS, batch_size=BATCH, image_size=SIZE, projection=(32, 16), seed=3
    )
    slowed(pause)
    settings = RunSettings(runtime=pick("cpu", "float32"), **saving)
    pretrain(DATA, config, out, settings=settings, probe=accuracy_of_nothing, probe_every=3)


def train_classifier(out: Path, pause: float = 0.0, **saving) -> None:
    """Across both phase boundaries: a head, a last stage, everything."""
    torch.set_num_threads(1)
    phases = (EPOCHS // 4, EPOCHS // 4, EPOCHS // 2)
    config = FinetuneConfig(phases=phases, batch_size=BATCH, image_size=SIZE, seed=3)
    slowed(pause)
    settings = RunSettings(runtime=pick("cpu", "float32"), **saving)
    finetune(DATA, LABELS, Split(*THIRDS), ["a", "b", "c"], config, out, settings=settings)


def accuracy_of_nothing(encoder: torch.nn.Module) -> float:
    return float(sum(parameter.detach().double().sum() for parameter in encoder.parameters()))


def slowed(pause: float) -> None:
    """As on a slower machine: wait before each step, so that a kill finds one under way."""
    if pause:
        register_optimizer_step_pre_hook(lambda *_: time.sleep(pause))


def die_while_saving(train, out: Path, save: int) -> None:
    """Killed half way through writing the state of this save."""
    write, saves = torch.save, iter(range(save))

    def half(content, file):
        if next(saves, None) is None:
            write(content, file)
            os.truncate(file, os.path.getsize(file) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        write(content, file)

    checkpoints.torch.save = half
    train(out, save_steps=3)


def start(function, *args, **kwargs):
    process = context.Process(target=function, args=args, kwargs=kwargs)
    process.start()
    return process
