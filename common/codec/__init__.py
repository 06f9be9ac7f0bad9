"""Tensors <-> bytes, by a short spec such as ``int8+zstd`` that both sides agree on.

A codec has `encode(tensors, context) -> Encoded` and `decode(encoded, context) -> tensors`; see `common.codec.spec`.
"""

from common.codec.context import Context
from common.codec.own import load_own, register
from common.codec.spec import Codec, Encoded, make_codec

__all__ = ["Codec", "Context", "Encoded", "load_own", "make_codec", "register"]
