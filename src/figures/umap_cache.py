"""UMAP, whose functions numba compiles for ten seconds or more: once for a machine, not for each
process.
"""

import contextlib
import sys
from functools import cache
from types import ModuleType


@cache
def cached_umap() -> ModuleType:
    """The module `umap`; what numba compiles of it is kept on disk.

    umap and pynndescent ask for that for some of their functions only. Where numba finds no folder
    to write to, each process compiles for itself, as it would without this.
    """
    import umap
    from numba.core.registry import CPUDispatcher

    modules = [module for name, module in sys.modules.items() if name.startswith(("umap", "pynnd"))]
    compiled = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, CPUDispatcher)
    }
    for function in compiled:
        with contextlib.suppress(RuntimeError):  # "no locator available"
            function.enable_caching()
    return umap
