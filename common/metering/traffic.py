"""Bytes that this machine sent and received over its networks, for the radio's share of the energy."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Traffic:
    """Bytes over all interfaces but the loopback."""

    sent_bytes: int
    received_bytes: int

    def since(self, earlier: "Traffic") -> "Traffic":
        """What came between an earlier count and this one."""
        return Traffic(self.sent_bytes - earlier.sent_bytes, self.received_bytes - earlier.received_bytes)


def traffic() -> Traffic:
    """Since the machine started."""
    counts = [each for name, each in psutil.net_io_counters(pernic=True).items() if not name.startswith("lo")]
    return Traffic(sum(each.bytes_sent for each in counts), sum(each.bytes_recv for each in counts))
