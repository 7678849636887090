"""The codecs of record batches, piece by piece: what Java reads is read here, and no piece is large.

Java is laxer than the libraries: it ignores bytes behind a gzip member or an lz4 frame, unknown flags, and an lz4
frame's checksum. The batch has a checksum of its own, which the client has compared.
"""

import zlib
from collections.abc import Callable, Iterator
from functools import partial

import cramjam  # what python-snappy is made of
import zstandard
from lz4 import block as lz4_block

from exactly_once.varints import BatchError, Bytes

CODEC_BITS, LOG_APPEND_TIME_BIT = 0b0111, 0b1000  # of a batch's attributes

PIECE_BYTES, LEAST_PIECE_BYTES = 256 * 1024, 1024
"""What is taken at once. A gzip member may be tiny, and what is behind its end is copied: it begins with less."""

BLOCK_BYTES = 32 * 1024 * 1024
"""The most that is held for a batch: a snappy block, decompressed, or what a zstd frame looks back on. Producers need
less: snappy blocks of 32 kB, or a batch; and a zstd window is no larger than what it holds."""

MAX_WINDOW_BYTES = 128 * 1024 * 1024
"""The largest zstd window that Java accepts."""


def _pieces(data: memoryview) -> Iterator[Bytes]:
    for at in range(0, len(data), PIECE_BYTES):
        yield data[at : at + PIECE_BYTES]


def _gzip(data: memoryview) -> Iterator[Bytes]:
    # https://www.rfc-editor.org/rfc/rfc1952: members, each a header, deflated data, and eight bytes of trailer.
    whole, at = data.tobytes(), 0
    while whole.startswith(b"\x1f\x8b", at):
        at, size, inflate = _gzip_header(whole, at), LEAST_PIECE_BYTES, zlib.decompressobj(-zlib.MAX_WBITS)
        while not inflate.eof:
            if at >= len(whole):
                raise BatchError("it ends within a gzip member")
            taken = data[at : at + size]
            piece = inflate.decompress(taken, PIECE_BYTES)
            while piece:
                yield piece
                piece = inflate.decompress(inflate.unconsumed_tail, PIECE_BYTES)
            at += len(taken) - len(inflate.unused_data)
            size = min(2 * size, PIECE_BYTES)
        at += 8


def _gzip_header(data: bytes, at: int) -> int:
    flags, at = data[at + 3], at + 10
    if flags & 0b00100:  # extra
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (0b01000, 0b10000):  # name, comment
        if flags & flag:
            at = data.index(0, at) + 1
    return at + (2 if flags & 0b00010 else 0)  # checksum


def _snappy(data: memoryview) -> Iterator[Bytes]:
    # snappy-java has a format of its own: a header of 16 bytes, then blocks, each after its length. Others write a
    # block alone.
    header = b"\x82SNAPPY\0"
    if data[: len(header)] != header:
        yield from _snappy_block(data)
        return
    at = 0
    while at + 4 <= len(data):  # up to three bytes may follow
        if data[at : at + len(header)] == header:  # also between two blocks
            at += 16
            continue
        size = int.from_bytes(data[at : at + 4], "big")
        yield from _snappy_block(data[at + 4 : at + 4 + size])
        at += 4 + size


def _snappy_block(data: memoryview) -> Iterator[Bytes]:
    size = cramjam.snappy.decompress_raw_len(data)
    if size > BLOCK_BYTES:
        raise BatchError(f"a snappy block of {size:,} bytes")
    yield from _pieces(memoryview(cramjam.snappy.decompress_raw(data)))


def _lz4(data: memoryview) -> Iterator[Bytes]:
    # https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md: magic number, flags, block size, perhaps the size of
    # all, checksum; then blocks, each after its length, whose highest bit is set if it is not compressed.
    flags, largest = data[4], 1 << 8 + 2 * (data[5] >> 4 & 7)
    at = 15 if flags & 0b1000 else 7
    while size := (length := int.from_bytes(data[at : at + 4], "little")) & 0x7FFFFFFF:
        block = data[at + 4 : at + 4 + size]
        if len(block) < size:
            raise BatchError("it ends within an lz4 block")
        yield block if length >> 31 else lz4_block.decompress(block, uncompressed_size=largest)
        at += 4 + size + (4 if flags & 0b10000 else 0)  # perhaps a checksum


def _zstd(data: memoryview) -> Iterator[Bytes]:
    # A window is memory that a frame asks for, and fills as far as it holds anything.
    window = zstandard.get_frame_parameters(data).window_size
    decompressor = zstandard.ZstdDecompressor(max_window_size=min(max(window, BLOCK_BYTES), MAX_WINDOW_BYTES))
    with decompressor.stream_reader(data, read_across_frames=True) as reader:
        pieces = iter(partial(reader.read, PIECE_BYTES), b"")
        yield from (
            pieces if window <= BLOCK_BYTES else _up_to(BLOCK_BYTES, pieces, f"a zstd window of {window:,} bytes")
        )


CODECS: dict[int, Callable[[memoryview], Iterator[Bytes]]] = {0: _pieces, 1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}


def decompressed(codec: int, data: memoryview, most: int) -> Iterator[Bytes]:
    """Yield the bytes that a batch's records were before they were compressed, so many at most.

    Raises BatchError where they end, for whatever reason.
    """
    if codec not in CODECS:
        raise BatchError(f"compressed by the unknown codec {codec}")
    try:
        yield from _up_to(most, CODECS[codec](data), f"more than {most:,} bytes")
    except (BatchError, MemoryError):
        raise
    except Exception as error:  # each codec has errors of its own
        raise BatchError(f"{type(error).__name__}: {error}") from None


def _up_to(most: float, pieces: Iterator[Bytes], problem: str) -> Iterator[Bytes]:
    for piece in pieces:
        most -= len(piece)
        if most < 0:
            raise BatchError(problem)
        yield piece
        del piece  # it may be part of a block, and the next one is as large


class Stream:
    """The decompressed bytes of a batch, as far as they have been asked for.

    Why there are no more counts only if they are needed: an error behind the records does no harm.
    """

    def __init__(self, pieces: Iterator[Bytes]) -> None:
        self.data, self.has_ended = bytearray(), False
        self._pieces = pieces
        # A text: an error refers to the frames that it came through, and so to this, until the collector comes.
        self._problem = ""

    def fill(self, size: int) -> None:
        """Read until there are so many bytes, or no more."""
        while len(self.data) < size and not self.has_ended and not self._problem:
            try:
                self.data += next(self._pieces)
            except StopIteration:
                self.has_ended = True
            except BatchError as error:
                self._problem = str(error)

    def take(self, size: int) -> bytearray:
        """Return the next bytes. Raises BatchError if there are fewer."""
        if not self.has(size):
            raise BatchError("it ends within a record")
        taken = self.data[:size]
        del self.data[:size]
        return taken

    def has(self, size: int) -> bool:
        """Return whether there are so many more bytes. Raises BatchError if that cannot be known."""
        self.fill(size)
        if len(self.data) < size and self._problem:
            raise BatchError(self._problem)
        return len(self.data) >= size

    def skip(self, size: int) -> None:
        """Take so many bytes, and keep none. Raises BatchError if there are fewer."""
        while size:
            size -= len(self.take(min(size, PIECE_BYTES)))
