"""Numbers with units on a command line: ``20mbit``, ``20ms``, ``500MiB``."""

import math
import re
from collections.abc import Mapping

from common.errors import UsageError

RATES_MBPS = {"bit": 1e-6, "kbit": 1e-3, "mbit": 1.0, "gbit": 1e3}
TIMES_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
SIZES_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2, "gib": 1024.0**3}
_FORM = re.compile(r"\s*([0-9.eE+-]+?)\s*([a-zA-Z]+)(?:/s|ps)?\s*")


def rate_mbps(flag: str, text: str) -> float:
    """Mbit/s (1 Mbit is 1e6 bits) of a rate such as ``20mbit``; above 0."""
    value = _quantity(flag, text, RATES_MBPS, "20mbit")
    if value <= 0:
        raise UsageError(f"--{flag} is {text}; a rate is above 0")
    return value


def time_ms(flag: str, text: str) -> float:
    """Milliseconds of a time such as ``20ms``."""
    return _quantity(flag, text, TIMES_MS, "20ms")


def size_bytes(flag: str, text: str) -> float:
    """Bytes of a size such as ``500MiB``."""
    return _quantity(flag, text, SIZES_BYTES, "500MiB")


def _quantity(flag: str, text: str, units: Mapping[str, float], example: str) -> float:
    found = _FORM.fullmatch(text)
    unit = found[2].lower() if found else ""
    try:
        value = float(found[1]) * units[unit] if found else math.nan
    except (ValueError, KeyError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(f"--{flag} is {text!r}; it is a number and one of {', '.join(units)}, such as {example}")
    return value
