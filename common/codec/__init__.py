"""Tensors <-> bytes, by a short spec such as ``int8+zstd`` that both sides agree on.

A codec has `encode(tensors, step) -> Encoded` and `decode(encoded) -> tensors`; see `common.codec.spec`.
"""

from common.codec.spec import Codec, Encoded, make_codec

__all__ = ["Codec", "Encoded", "make_codec"]
