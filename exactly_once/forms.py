"""Forms of records, learned: why most records need no decoding.

A producer usually writes all of its records in the same form: the same headers and members, in the same order, with
the same spacing. That is why it pays to learn forms. A record that the general way (decode() and the rule) has accepted
is a sample: scalars, key and headers' values become patterns of what may be there, and all else stays as it is
(samples.py). The forms that are kept are alternatives of one pattern, which splits bytes into records that fit, with
their parts in columns. Whatever does not fit goes the general way, alone.

A wrong guess costs time, and changes nothing else:

- Where a record ends. The first one begins where the decoder says. A key and a header's value match with exactly the
  length that stands before them. A value's or a record's length is nothing that a pattern can count: what has matched
  is counted afterwards, and must be what the varint before it says. What lies before a match is decoded, and unless
  it ends exactly where the match begins, the match lay within a value and is dropped.
- What its value is. What fits is JSON: strings and numbers are spelled out, and the text is checked to be UTF-8. No
  name is there twice, as the rule has accepted the sample's, and a member that the rule looks at has its own pattern.
- Its offset and its time. Chunks whose offsets have gaps go the general way, so the place in the chunk is the offset.

It takes linear time: patterns hold nothing that can be tried in two ways, and a split goes only twice as far as the one
before it has come, and MOST_BYTES at most.
"""

import re
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import accumulate, compress, count, repeat
from operator import add, ne
from typing import NamedTuple

from exactly_once.decoding import Chunk, Record, decode
from exactly_once.samples import VARINT_FORM, Form, form_of
from exactly_once.varints import NUMBER, VARINT, Bytes

MOST_BYTES = 64 * 1024
"""How much is split at once: enough to make its cost small, and not too much for the processor's cache."""

MOST_FORMS = 8
PRICE = 4
"""How many records are decoded for each byte of the pattern before a form is added to it: so compiling takes some 5 %
of the time at most, even if every record has a form of its own."""


class Fitting(NamedTuple):
    """Consecutive records that fit a form, in columns."""

    chunk: Chunk
    """These records alone, to be decoded if need be."""
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
        # The groups of the pattern are the record's length, what that counts, the timestamp delta, the content, and
        # those of each form. A length has three bytes at most: less than 1 MiB, so that no record is too large.
        self._compiled = [*self._forms]
        contents = b"|".join(form.pattern for form in self._forms)
        parts = (VARINT_FORM % 2, VARINT_FORM % 4, VARINT_FORM % 4, contents)
        self._pattern = re.compile(rb"(%b)(\x00(%b)%b(%b))" % parts, re.DOTALL)
        re.purge()  # `re` would keep hundreds of patterns that will not be asked for again

    def cut(self, chunk: Chunk) -> Iterator[Fitting | Record]:
        """Yield the records of a chunk in their order, as decode() does: in columns those that fit a form."""
        data, at, left, reach = memoryview(chunk.records), 0, chunk.record_count, MOST_BYTES
        has_gaps = chunk.next_offset - chunk.first_offset != left
        is_whole = not chunk.problem and not has_gaps and chunk.position <= chunk.first_offset
        if not is_whole or chunk.append_time is not None or abs(chunk.base_timestamp) > 2**62:
            # The times are not in the records, or the sum of two may need more than 64 bits.
            yield from decode(chunk)
            return
        while left:
            begun = at
            for start, end, columns in self._runs(data, at, reach, chunk.base_timestamp):
                if at < start:
                    at, left = yield from self._odd(chunk, data, at, left, start)
                if at != start or len(columns[0]) > left:
                    break  # what has fitted is within a value, or behind the last record
                yield Fitting(_part(chunk, data[at:end], left, len(columns[0])), *columns)
                at, left = end, left - len(columns[0])
            if at == begun:
                at, left = yield from self._odd(chunk, data, at, left)
            reach = min(2 * (at - begun), MOST_BYTES)

    def _odd(
        self, chunk: Chunk, data: memoryview, at: int, left: int, until: int = 0
    ) -> Generator[Record, None, tuple[int, int]]:
        # Decodes one record or more: until this index or, if none is given, until a record fits. Returns where it ends,
        # and how many records are left.
        begin, records = at, decode(_part(chunk, data[at:], left, left))
        for number, record in enumerate(records):
            yield record
            left -= 1
            if record.problem:  # stands for all that follow
                break
            at = begin + record.end
            is_tried = not until and (number < 64 or number % 8 == 0)  # in vain, it costs time as well
            if (until and at >= until) or (is_tried and self._pattern.match(data, at)):
                return at, left
        yield from records
        return at, 0

    def _runs(
        self, data: memoryview, at: int, reach: int, base_timestamp: int
    ) -> Iterator[tuple[int, int, tuple[list[int], list[Bytes], list[list[bytes]]]]]:
        # Yields where records that fit begin and end, and their columns. The first are here; nothing if none are. All
        # are right if the first of each run begins where a record does.
        first = self._pattern.match(data, at)
        if not first:
            return
        width = self._pattern.groups + 1  # what is before a match, and its groups; last comes what is behind them all
        parts = self._pattern.split(data[at : max(at + reach, first.end())])
        between, lengths, counted, deltas, contents, *own = (parts[n::width] for n in range(width))
        value_lengths, values, *deciding = self._of_any_form(own)
        sizes = list(map(len, counted))
        right = min(_agreeing(lengths, sizes), _agreeing(value_lengths, map(len, values)), _texts(values))
        timestamps = list(map(add, map(NUMBER.__getitem__, deltas), repeat(base_timestamp)))
        start = 0
        for stop in (*compress(range(1, right), between[1:right]), right):
            at += len(between[start])
            end = at + sum(sizes[start:stop]) + sum(map(len, lengths[start:stop]))
            if start < stop:
                yield at, end, (timestamps[start:stop], contents[start:stop], [c[start:stop] for c in deciding])
            start, at = stop, end

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


def _part(chunk: Chunk, data: memoryview, left: int, count: int) -> Chunk:
    # Returns so many records of a chunk, where so many are left, the first of which begins with the data.
    first = chunk.next_offset - left
    part = chunk._replace(record_count=count, first_offset=first, next_offset=first + count)
    return part._replace(records=data)  # type: ignore[arg-type]  # not to be cleared


def _agreeing(varints: list[bytes], sizes: Iterable[int]) -> int:
    # Returns how many of these, from the first on, say what the size is.
    expected = list(map(VARINT.__getitem__, sizes))
    return len(varints) if varints == expected else next(compress(count(), map(ne, varints, expected)))


def _texts(values: list[bytes]) -> int:
    # Returns how many of these, from the first on, are UTF-8. Each begins and ends with ASCII, so they may be joined.
    try:
        str(b"".join(values), "utf-8")
    except UnicodeDecodeError as error:
        return bisect_right(list(accumulate(map(len, values))), error.start)
    return len(values)
