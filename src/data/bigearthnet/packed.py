"""What an archive is packed with, found by its first bytes; damage ends the reading."""

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from typing import BinaryIO

from src.data.streams import READ

# what reading of it raises if it is cut or damaged; OSError: from gzip and bz2, without a number
UNPACKING = (EOFError, zlib.error, lzma.LZMAError, OSError)


class _Zstd(io.RawIOBase):
    """A `.zst`, one frame after the other: the package's own reader also takes one for whole that
    is cut within a frame's checksum. Python reads zstd by itself from 3.14 on.
    """

    def __init__(self, content: io.BufferedReader) -> None:
        import zstandard

        self._begin = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._content, self._frame = content, None
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:
        """See `io.RawIOBase.readinto`."""
        while not self._unpacked:
            packed = self._content.read(READ)
            if not packed and self._frame is None:
                return 0
            if not packed:
                raise EOFError("it ends within a zstd frame")
            self._unpacked = memoryview(self._decompressed(packed))
        count = min(len(buffer), len(self._unpacked))
        buffer[:count], self._unpacked = self._unpacked[:count], self._unpacked[count:]
        return count

    def _decompressed(self, packed: bytes) -> bytes:
        parts = []
        while packed:
            self._frame = self._frame or self._begin()
            try:
                parts.append(self._frame.decompress(packed))
            except self._error as error:
                raise EOFError(str(error)) from error
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        return b"".join(parts)


# first bytes → how to read what is packed so; each checks the checksums that its format has
PACKED = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x28\xb5\x2f\xfd": _Zstd,
}


def unpacked(content: io.BufferedReader) -> contextlib.AbstractContextManager[BinaryIO]:
    """What is in a `.gz`, `.bz2`, `.xz` or `.zst`, or as it is, as a stream; `content` stays open.

    Reading raises one of `UNPACKING` where it is damaged, or ends too early.
    """
    start = content.peek()
    opener = next((opener for magic, opener in PACKED.items() if start.startswith(magic)), None)
    return opener(content) if opener else contextlib.nullcontext(content)
