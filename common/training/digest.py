"""Digests of parameters, by which two runs can be compared bit for bit wherever the model was cut."""

import xxhash
from torch import Tensor, nn

from common.codec.buffers import to_bytes


def parameter_digests(part: nn.Module) -> dict[str, str]:
    """Digest of each parameter and buffer of a part, by name: over dtype, shape and bytes."""
    values = dict(part.named_parameters()) | dict(part.named_buffers())
    return {name: _digest(value) for name, value in values.items()}


def combined_digest(*digests: dict[str, str]) -> str:
    """One digest of all parameters and buffers of the parts of a model; the same for every cut."""
    lines = sorted(f"{name}={value}\n" for part in digests for name, value in part.items())
    return xxhash.xxh3_128_hexdigest("".join(lines).encode())


def _digest(value: Tensor) -> str:
    state = xxhash.xxh3_128(f"{value.dtype}{tuple(value.shape)}".encode())
    state.update(to_bytes(value))
    return state.hexdigest()
