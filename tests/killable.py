"""Builds that tests start in other processes and kill; apart from the tests, so that a process
starts in no time.
"""

import multiprocessing
import os
import signal
import sys
import time

from audit.plan import SIZES, Size
from src.data import ingest
from src.data.bigearthnet import bigearthnet_store

# A forked child of pytest itself could wait for ever for a lock that some thread of pytest's held
# at that moment.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["pytest", "killable", "src.data.bigearthnet"])


def start(function, *args, **kwargs):
    process = context.Process(target=function, args=args, kwargs=kwargs)
    process.start()
    return process


def build(root, path):
    ingest.os.fsync = lambda file: None  # for power cuts only: a kill does not need it
    bigearthnet_store(root, path, workers=1)


def build_slowly(root, path):
    """As from a slow disk: ten milliseconds for every eight patches, each eight noted."""
    read_chunk = ingest._read_chunk
    ingest._read_chunk = lambda work: (time.sleep(0.01), read_chunk(work))[1]
    ingest.CHUNK, ingest.COMMIT_SECONDS = 8, 0
    build(root, path)


def build_and_die(root, path, write):
    """Killed in the middle of this write of one row."""
    pwrite, writes = ingest._pwrite, iter(range(write))

    def counted(file, data, at):
        if next(writes, None) is None:
            os.pwrite(file, data[:1000], at)
            os.kill(os.getpid(), signal.SIGKILL)
        pwrite(file, data, at)

    ingest._pwrite = counted
    build(root, path)


def map_slowly(path, checkpoint, out):
    """A map in strips of one row of tiles, ten milliseconds each."""
    from src.map import tiles
    from src.map.scene_map import map_scene
    from src.map.thresholds import Thresholds, thresholds_path
    from src.runs.runtime import pick

    score_strip = tiles._score_strip
    tiles._score_strip = lambda *args: (time.sleep(0.01), score_strip(*args))[1]
    tiles.STRIP_TILES = 1
    known = Thresholds.load(thresholds_path(checkpoint), checkpoint)
    map_scene(path, checkpoint, out, known, stride=16, runtime=pick("cpu", "float32"))


TINY = Size(
    per_class=8,
    held_out=2,
    short=2,
    long=2,
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
