"""Forms of records, learned: why most records need no decoding.

A producer usually writes all of its records in the same form: the same headers and members, in the same order, with
the same spacing. That is why it pays to learn forms. A record that the general way (decode() and the rule) has accepted
is a sample: scalars, key and headers' values become patterns of what may be there, and all else stays as it is
(samples.py). The forms that are kept are alternatives of one pattern, which splits bytes into records that fit, with
their parts in columns. Whatever does not fit goes the general way, alone.

A wrong guess costs time, and changes nothing else:

- Where a record ends. The first one begins where the decoder says. A key and a header's value match with exactly the
  length that stands before them. A value's or a record's length is nothing that a pattern can count: what has matched
  is counted afterwards, and must be what the varint before it says. What lies between two matches is decoded, and
  unless whole records end exactly where the second begins, the second lay within a value and is dropped.
- What its value is. What fits is JSON: strings and numbers are spelled out, and the text is checked to be UTF-8. No
  name is there twice, as the rule has accepted the sample's, and a member that the rule looks at has its own pattern.
- Its offset and its time. Chunks whose offsets have gaps go the general way, so the place in the chunk is the offset.

It takes linear time: patterns hold nothing that can be tried in two ways, and a split goes only twice as far as the one
before it has come, and MOST_BYTES at most.
"""

import re
from bisect import bisect_right
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import accumulate, compress, count, repeat
from operator import add, ne
from typing import NamedTuple

from exactly_once.decoding import Chunk, Record, decode
from exactly_once.samples import Form, form_of
from exactly_once.varints import NUMBER, VARINT, VARINT_FORM, Bytes

LENGTH = re.compile(VARINT_FORM % 2, re.DOTALL)
"""A record's length, of three bytes at most: less than 1 MiB, so that no record is too large."""

MOST_BYTES = 64 * 1024
"""How much is split at once: enough to make its cost small, and not too much for the processor's cache."""

MOST_FORMS = 8
PRICE = 4
"""How many records are decoded for each byte of the pattern before a form is added to it: so compiling takes some 5 %
of the time at most, even if every record has a form of its own."""


class Fitting(NamedTuple):
    """Records that fit a form, in columns. Others may lie between them, which fit none."""

    offsets: Sequence[int]
    timestamps: list[int]
    contents: list[Bytes]
    deciding: list[list[bytes]]
    """What the groups in the patterns of the rule's members have matched: a column for each group."""


class Forms:
    """The forms that have been learned. They make a difference to how long a record takes, and to nothing else."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        """`members` has the patterns of those that the rule looks at, each of them with a group or without."""
        self.members = members
        self.deciding = [name for name, pattern in members.items() if re.compile(pattern).groups]
        self._forms: list[Form] = []  # those that were of use most recently come first
        self._pattern = re.compile(rb"(?!)")
        self._compiled: list[Form] = []  # in the order of the alternatives
        self._wait = 0  # records to be decoded before another form is learned

    def learn(self, sample: Record) -> None:
        """Learn the form of a record that the general way has accepted, unless forms are learned too fast."""
        self._wait -= 1
        if self._wait > 0:
            return
        form = form_of(sample, self.members)
        if form and form not in self._forms:
            self._forms = [form, *self._forms[: MOST_FORMS - 1]]
            self._compile()
        self._wait = PRICE * (len(self._pattern.pattern) if form else len(sample.content))

    def _compile(self) -> None:
        # The groups of the pattern are a record without its length, the timestamp delta, the content, and those of each
        # form. It begins with a byte that no JSON holds, so that it is found soon behind what does not fit.
        self._compiled = [*self._forms]
        contents = b"|".join(form.pattern for form in self._forms)
        self._pattern = re.compile(rb"(\x00(%b)%b(%b))" % (VARINT_FORM % 4, VARINT_FORM % 4, contents), re.DOTALL)
        re.purge()  # `re` would keep hundreds of patterns that will not be asked for again

    def cut(self, chunk: Chunk) -> Iterator[Fitting | Record]:
        """Yield the records of a chunk: in columns those that fit a form, and before them those that lie between."""
        data, at, left, reach = memoryview(chunk.records), 0, chunk.record_count, MOST_BYTES
        has_gaps = chunk.next_offset - chunk.first_offset != left
        is_whole = not chunk.problem and not has_gaps and chunk.position <= chunk.first_offset
        if not is_whole or chunk.append_time is not None or abs(chunk.base_timestamp) > 2**62:
            # The times are not in the records, or the sum of two may need more than 64 bits.
            yield from decode(chunk)
            return
        while left:
            begun = at
            if end := self._match(data, at):
                fitting, odd, size = self._split(chunk, data[at : max(at + reach, end)], left)
                yield from odd
                if fitting.offsets:
                    yield fitting
                at, left = at + size, left - len(odd) - len(fitting.offsets)
            if at == begun:
                at, left = yield from self._until_one_fits(chunk, data, at, left)
            reach = min(2 * (at - begun), MOST_BYTES)

    def _match(self, data: memoryview, at: int) -> int:
        # Returns where the record ends that begins here, if it fits a form; otherwise 0.
        length = LENGTH.match(data, at)
        found = length and self._pattern.match(data, length.end())
        return found.end() if found else 0

    def _until_one_fits(
        self, chunk: Chunk, data: memoryview, at: int, left: int
    ) -> Generator[Record, None, tuple[int, int]]:
        # Decodes one record or more, until the next one fits. Returns where that begins, and how many are left.
        begin = at
        for number, record in enumerate(decode(_from(chunk, data[at:], left))):
            yield record
            left -= 1
            if record.problem:  # may stand for all that follow
                continue
            at = begin + record.end
            is_tried = number < 64 or number % 8 == 0  # in vain, it costs time as well
            if is_tried and self._match(data, at):
                return at, left
        return at, 0

    def _split(self, chunk: Chunk, data: memoryview, left: int) -> tuple[Fitting, list[Record], int]:
        # Returns the records that fit, the first of which is here, those that lie between them, and the size of all.
        parts = self._pattern.split(data)
        width = self._pattern.groups + 1  # what is before a match, and its groups; last comes what is behind them all
        before, counted, deltas, contents, *own = (parts[n::width] for n in range(width))
        value_lengths, values, *deciding = self._of_any_form(own)
        sizes = list(map(len, counted))
        lengths = list(map(VARINT.__getitem__, sizes))
        stop = min(_agreeing(value_lengths, list(map(VARINT.__getitem__, map(len, values)))), _texts(values), left)
        odd: list[Record] = []
        for place in compress(range(stop), map(ne, before, lengths)):  # where more lies before a record than its length
            between, has_length = before[place].removesuffix(lengths[place]), before[place].endswith(lengths[place])
            found = _whole(_from(chunk, between, left - place - len(odd))) if has_length else []
            if not found:  # what has matched is within a value, or has another length
                stop = place
                break
            odd += found
        first, stop = chunk.next_offset - left, min(stop, left - len(odd))
        offsets: Sequence[int] = range(first, first + stop + len(odd))
        if odd:
            others = {record.offset for record in odd}
            offsets = [offset for offset in offsets if offset not in others]
        timestamps = list(map(add, map(NUMBER.__getitem__, deltas[:stop]), repeat(chunk.base_timestamp)))
        size = sum(map(len, before[:stop])) + sum(sizes[:stop])
        return Fitting(offsets, timestamps, contents[:stop], [column[:stop] for column in deciding]), odd, size

    def _of_any_form(self, columns: list[list[bytes]]) -> list[list[bytes]]:
        # Returns the columns of all forms as those of one, with the members in the rule's order; notes the forms used.
        used, found = [], []
        for form in self._compiled:
            own, columns = columns[: 2 + len(form.members)], columns[2 + len(form.members) :]
            if any(own[0]):
                used.append(form)
                found.append([*own[:2], *(own[2 + form.members.index(name)] for name in self.deciding)])
        self._forms.sort(key=lambda form: form not in used)
        merged, *others = found
        for other in others:
            merged = [
                [b if a is None else a for a, b in zip(*pair, strict=True)] for pair in zip(merged, other, strict=True)
            ]
        return merged


def _from(chunk: Chunk, data: Bytes, left: int) -> Chunk:
    # Returns a chunk's last records, so many, or the first of them: those that the data holds.
    first = chunk.next_offset - left
    return chunk._replace(records=data, record_count=left, first_offset=first)  # type: ignore[arg-type]  # not cleared


def _whole(chunk: Chunk) -> list[Record]:
    # Returns the first records of a chunk, all that its bytes hold; none unless the last one ends where they do.
    found = []
    for record in decode(chunk):
        found.append(record)
        if record.end == len(chunk.records):
            return found
    return []


def _agreeing(found: list[bytes], expected: list[bytes]) -> int:
    # Returns how many of these, from the first on, are what is expected.
    return len(found) if found == expected else next(compress(count(), map(ne, found, expected)))


def _texts(values: list[bytes]) -> int:
    # Returns how many of these, from the first on, are UTF-8. Each begins and ends with ASCII, so they may be joined.
    try:
        str(b"".join(values), "utf-8")
    except UnicodeDecodeError as error:
        return bisect_right(list(accumulate(map(len, values))), error.start)
    return len(values)
