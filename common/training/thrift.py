"""Gives memory back to the system that this process has freed and still holds."""

import ctypes
import gc
import sys


def give_back() -> None:
    """Collect what is kept by cycles only, and let the C library return what is free.

    A traced model and its graphs refer to each other, so what nobody uses of them stays until a collection; and glibc
    keeps freed pages for later. On an edge device another program may need them.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in musl
        if trim is not None:
            trim(0)
