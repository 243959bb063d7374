"""How far something is: a bar in a terminal; in a log or a notebook a line now and then."""

import sys
from typing import Any

from tqdm import tqdm

MINUTE = 60.0  # seconds from line to line
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {rate_fmt}, {elapsed} gone, {remaining} left"


def bar(*args: Any, **options: Any) -> tqdm:
    """`tqdm(*args, **options)`, which outside a terminal writes whole lines, one a minute."""
    options |= {"file": sys.stderr}
    if sys.stderr.isatty():
        return tqdm(*args, **options)
    return _Lines(*args, **options, mininterval=MINUTE, bar_format=LINE)


class _Lines(tqdm):
    """A bar without carriage returns, which a file would keep."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Write what a bar would show, once it has something to tell."""
        if self.n > self.initial or self.n == self.total:
            # at 0 it is closed, and ends its line itself
            self.fp.write(f"{msg or self}" + ("" if pos == 0 else "\n"))
            self.fp.flush()
        return True
