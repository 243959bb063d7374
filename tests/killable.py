"""What tests start in other processes and kill; apart from the tests, so that it starts at once."""

import multiprocessing
import os
import signal
import sys
import time

from filelock import FileLock

from audit.plan import SIZES, Size
from src.data import building, ingest
from src.data.bigearthnet import bigearthnet_store

# A forked child of pytest itself could wait for ever for a lock that some thread of pytest's held
# at that moment.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["pytest", "killable", "src.data.bigearthnet"])


def start(function, *args, **kwargs):
    process = context.Process(target=function, args=args, kwargs=kwargs)
    process.start()
    return process


def build(root, path, *selection):
    os.fsync = lambda file: None  # for power cuts only: a kill does not need it
    bigearthnet_store(root, path, *selection, workers=1)


def build_slowly(root, path):
    """As onto a slow disk: 2.5 milliseconds a patch, every four patches noted."""
    pwrite = os.pwrite
    os.pwrite = lambda *args: (time.sleep(0.0025), pwrite(*args))[1]
    ingest.CHUNK, building.COMMIT_SECONDS = 4, 0
    build(root, path)


def build_and_die(root, path, write, *selection):
    """Killed in the middle of this write of one row."""
    pwrite, writes = os.pwrite, iter(range(write))

    def counted(file, data, at):
        if next(writes, None) is None:
            pwrite(file, data[:1000], at)
            os.kill(os.getpid(), signal.SIGKILL)
        return pwrite(file, data, at)

    os.pwrite = counted
    build(root, path, *selection)


def build_noting_every_row_and_die(root, path, write, selection):
    ingest.CHUNK, building.COMMIT_SECONDS = 1, 0
    build_and_die(root, path, write, selection)


def map_row_by_row(path, checkpoint, out):
    """A map in strips of one row of tiles."""
    import torch

    from src.map import Thresholds, map_scene, thresholds_path, tiles
    from src.runs.runtime import pick

    torch.set_num_threads(1)
    tiles.STRIP_TILES = 1
    thresholds = Thresholds.load(thresholds_path(checkpoint), checkpoint)
    map_scene(
        path, checkpoint, out, thresholds, score="energy", stride=16, runtime=pick("cpu", "float32")
    )


TINY = Size(
    per_class=6,
    held_out=2,
    short=1,
    long=1,
    epochs=3,
    max_epochs=4,
    labels=(4,),
    image_size=8,
    mc_samples=2,
    tuned="bc",
    temperatures=(0.5,),
    rates=(1e-4, 1e-3),
    noise=(50,),
    batch_size=16,
)


def audit(*arguments):
    """The audit's command line at a tiny size, on one thread."""
    import torch

    from audit import __main__ as command

    torch.set_num_threads(1)
    SIZES["tiny"], sys.argv = TINY, ["audit", "--size", "tiny", *map(str, arguments)]
    command.main()


def hold(folder):
    """Have the lock of a folder, as a process has that works in it, and say so by a file."""
    with FileLock(folder / "lock", timeout=0):
        (folder / "held").touch()
        time.sleep(600)
