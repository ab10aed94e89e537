"""The link between the parties, in the units people write."""

from __future__ import annotations

import re
from dataclasses import dataclass

from keras_relu.errors import UserError

__all__ = ["Link", "parse_bytes", "parse_seconds"]

_BITS = {"bps": 1.0, "kbps": 1e3, "mbps": 1e6, "gbps": 1e9}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*)\s*")


@dataclass(frozen=True)
class Link:
    """`bits_per_second` shared by all parties and both directions, and `rtt_s`, the time of a request and its answer."""

    bits_per_second: float
    rtt_s: float

    @classmethod
    def parse(cls, bandwidth: str, rtt: str) -> Link:
        """A link from texts such as "384Mbps" and "40ms".

        Raises:
            UserError: not a positive number with one of the units bps, kbps, Mbps, Gbps and us, ms, s.
        """
        return cls(_parse("bandwidth", bandwidth, _BITS), _parse("round-trip time", rtt, _SECONDS, zero=True))

    def __str__(self) -> str:
        return f"{self.bits_per_second / 1e6:g} Mbps, {1e3 * self.rtt_s:g} ms round trip"


def parse_bytes(text: str) -> float:
    """A number of bytes from "5MB", "1.5GiB" or "800000"; kB, MB, GB are powers of 1000."""
    return _parse("number of bytes", text, {"": 1.0, **_BYTES})


def parse_seconds(text: str) -> float:
    """Seconds from "1.5s", "300ms" or "2"."""
    return _parse("time", text, {"": 1.0, **_SECONDS})


def _parse(what: str, text: str, units: dict[str, float], *, zero: bool = False) -> float:
    found = _NUMBER.fullmatch(str(text))
    unit = found[2].lower() if found else ""
    if not found or unit not in units or (float(found[1]) <= 0 and not zero):
        allowed = ", ".join(sorted(name for name in units if name))
        raise UserError(f"The {what} {text!r} is not understood; give a positive number with a unit of {allowed}.")
    return float(found[1]) * units[unit]
