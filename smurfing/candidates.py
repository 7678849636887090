"""Candidates: transfers that may be part of a ring, as records of less than 600 bytes.

The key is the receiver, and the value the currency and the source, such as `EUR alice`. The time is the record's.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from detector.rule import parse
from exactly_once import Record, key_of

MAX_NAME_BYTES = 256
"""A longer account name is replaced by its hash, so that names take bounded space."""


class Transfer(NamedTuple):
    """What the rule against smurfing needs of a transaction that has its amount."""

    source: bytes
    target: bytes
    currency: str  # in capitals


def candidate_of(fraud: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return the key and the value for a transaction."""
    return name_of(fraud["target"]), fraud["currency"].upper().encode() + b" " + name_of(fraud["source"])


def transfer_of(record: Record, amount: int) -> Transfer | None:
    """Return the transfer that a candidate stands for, or None if anybody else has written something else."""
    key, value = key_of(record) or b"", bytes(record.value or b"")
    try:
        if value.startswith(b"{"):  # up to version 0.2.0 it was a copy of the fraud
            fraud = parse(value)
            if fraud["amount"] != amount:
                return None
            key, value = candidate_of(fraud)
        key.decode("utf-8", "surrogatepass")
    except ValueError:  # InvalidTransaction is one
        return None
    currency, space, source = value[:3], value[3:4], value[4:]
    is_bounded = 0 < len(key) <= MAX_NAME_BYTES and 0 < len(source) <= MAX_NAME_BYTES
    is_one = is_bounded and currency.isalpha() and currency.isupper() and space == b" "
    return Transfer(source, key, currency.decode()) if is_one else None


def name_of(account: str) -> bytes:
    """Return the name of an account as it is compared."""
    name = account.encode("utf-8", "surrogatepass")  # JSON can escape half a character
    return name if len(name) <= MAX_NAME_BYTES else b"sha256:" + sha256(name).hexdigest().encode()
