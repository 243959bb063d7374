"""The errors a user meets, and the one way in which a command tells them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class DataError(RuntimeError):
    """Data on disk is not what was expected; the message names the file, the expectation and the
    remedy.
    """


class AbsentError(DataError):
    """A patch that was asked for and of which there is no file at all."""


class DamagedError(DataError):
    """A stream whose checksum was wrong at its end: nothing that was read of it can be trusted."""


class CheckpointError(RuntimeError):
    """A checkpoint can't be used; the message names the file, what was expected and what to do."""


@contextmanager
def exit_with_message() -> Iterator[None]:
    """Of a command: what the user can mend becomes one line "error: …" and exit status 1, without a
    traceback; a signal that ended it becomes one line too, which says where its work is saved.

    What is printed within it may hold any character: where the locale (LANG=C) cannot show it, its
    code is shown.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not within a notebook or a test
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except (DataError, CheckpointError, ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt as stopped:  # `src.runs.Stopped` has a message
        raise SystemExit(str(stopped) or "stopped") from None
