"""One file over HTTP, asked for from any byte on: what downloads and streams have in common."""

import base64
import errno
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from src.errors import DataError

TIMEOUT = 60  # seconds without a byte
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that are others a little later
SCHEMES = ("http", "https")
# what a connection that fails raises, and `ask` of a server that says no (`HTTPError`)
FAILURES = (urllib.error.URLError, http.client.HTTPException, OSError)


@dataclass(frozen=True)
class Answer:
    """A file as a server sends it, from some byte on."""

    response: http.client.HTTPResponse
    begins: int  # byte of the file: 0 from a server that cannot continue and sends all again
    total: int | None  # bytes of the whole file, if the server says it
    version: str | None  # of the file, its ETag or date, if the server says it

    @property
    def says_its_end(self) -> bool:
        """Whether it is known when it ends too early: otherwise it may have broken off."""
        return self.total is not None or self.response.chunked

    def blocks(self) -> Iterator[bytes]:
        """Yield what comes. ConnectionError or HTTPException: it ends too early."""
        position = self.begins
        # read1: what has come before a connection breaks or stalls is not lost
        while position != self.total and (block := self.response.read1(1 << 20)):
            position += len(block)
            yield block
        if self.total is not None and position < self.total:
            raise ConnectionError(f"{position:,} of {self.total:,} bytes")


def ask(url: str, have: int = 0, version: str | None = None) -> Answer:
    """Ask for a file without the `have` bytes at its beginning.

    Args:
        url: a password in it is sent to its host and to no other.
        version: the `Answer.version` whose beginning we have: of another, all is sent.

    Raises:
        HTTPError: the server refuses; 416: there is nothing beyond what we have.
        URLError, HTTPException, OSError: no connection, or one that is of no use.
        DataError: it leads elsewhere than to http or https.
    """
    parts = urlsplit(url)
    request = urllib.request.Request(parts._replace(netloc=_host(url)).geturl())
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        # not sent on where this leads to another host
        request.add_unredirected_header(
            "Authorization", f"Basic {base64.b64encode(login).decode()}"
        )
    if have:
        request.add_header("Range", f"bytes={have}-")
    if have and version and not version.startswith("W/"):  # a weak one does not mean the same bytes
        request.add_header("If-Range", version)
    response = urllib.request.urlopen(request, timeout=TIMEOUT)
    begins, total = _range(response, have)
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    fault = None
    if begins not in (0, have):
        fault = ConnectionError(f"asked for bytes from {have:,}, got them from {begins:,}")
    if urlsplit(response.url).scheme not in SCHEMES:
        fault = DataError(f"{shown(url)} leads to {shown(response.url)}: not http or https")
    if fault:
        response.close()
        raise fault
    return Answer(response, begins, total, version)


def shown(url: str) -> str:
    """Return an address without what may be secret: user and password, query, fragment."""
    return urlsplit(url)._replace(netloc=_host(url), query="", fragment="").geturl()


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _range(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where in the file the response begins, and the file's length if the server says it.

    A server that cannot continue answers 200 and sends everything again.
    """
    length = response.headers.get("Content-Length") or ""
    if response.status != 206:
        return 0, int(length) if length.isdecimal() else None
    part, _, total = response.headers.get("Content-Range", "").partition("/")
    first = part.removeprefix("bytes ").partition("-")[0]
    begins = int(first) if first.isdigit() else have
    if total.isdigit():  # a server may send less than what was asked for
        return begins, int(total)
    return begins, begins + int(length) if length.isdecimal() else None


def total_of(error: urllib.error.HTTPError) -> int | None:
    """Length of the file, as "416 Range Not Satisfiable" says it."""
    total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
    return int(total) if total.isdigit() else None


def refusal(error: urllib.error.HTTPError, url: str) -> str:
    """Say what the server answers, and what that means."""
    state = "the address may have moved, see SETUP.md"
    if error.code in BUSY:
        wait = error.headers.get("Retry-After")
        state = f"it is busy. Try again later{f', in {wait} s' if wait else ''}"
    return f"{shown(url)} answers {error.code} {error.reason}: {state}"


def is_of_this_machine(error: Exception) -> bool:
    """Whether the disk is at fault (full, read-only …), and not the connection."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    return isinstance(error, OSError) and (error.filename is not None or error.errno in full)


def is_web_page(start: bytes) -> bool:
    """Whether a file that begins so is a page to read or log in, and not what was wanted."""
    return start[:200].lstrip().lower().startswith((b"<!doctype", b"<html"))
