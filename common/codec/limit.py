"""How much memory a codec may take for what it remembers."""

from dataclasses import dataclass

from common.errors import CodecError

DEFAULT_MB = 2048


@dataclass(frozen=True)
class MemoryLimit:
    """A bound in bytes, told in words where it is reached."""

    nbytes: int = DEFAULT_MB << 20

    def check(self, nbytes: int) -> None:
        """Raises CodecError where ``nbytes`` are too many."""
        if nbytes > self.nbytes:
            raise CodecError(
                f"the codec's memory would take {mebibytes(nbytes)} MiB of this machine; the limit is "
                f"{mebibytes(self.nbytes)}: raise --codec_memory_mb, cut where less crosses, or use a codec "
                "without memory, such as int4/c+zstd"
            )


def mebibytes(nbytes: int) -> int:
    """As many MiB as hold so many bytes."""
    return -(-nbytes // (1 << 20))
