"""A process and its children, found anew at each look without reading all of /proc again."""

import time
from collections.abc import Callable

import psutil

_BEFOREHAND_S = 0.01
"""Spent at once if need be: a command starts most of its children when it starts."""


class ProcessTree:
    """The process ``root`` and all that descend from it.

    Who is whose child is asked once for each process that appears: asking all at each sample costs a millisecond for
    each hundred of them. A child stays one when its parent ends before it.

    Args:
        root: number of the process; one that does not exist has no descendants.
        share: of a core that listing all processes may take; on a machine that starts many, new ones are seen later.
        every_s: how often to look for new ones, at most.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        root: int,
        share: float = 0.001,
        every_s: float = 0.1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._members: list[int] = []
        self._known: set[int] = set()
        self._root, self._share, self._every_s, self._clock = root, share, every_s, clock
        self._start_s = self._due_s = clock()
        self._spent_s = 0.0
        self._newest: bytes | None = None

    def pids(self) -> list[int]:
        """Those that were alive at the last listing, the root first."""
        now_s = self._clock()
        if now_s < self._due_s:
            return self._members
        self._due_s = now_s + self._every_s
        newest = _newest()
        affordable = self._spent_s <= _BEFOREHAND_S + self._share * (now_s - self._start_s)
        if affordable and (newest is None or newest != self._newest):
            before_s = time.thread_time()
            self._list()
            self._newest = newest
            self._spent_s += time.thread_time() - before_s
        return self._members

    def _list(self) -> None:
        alive = set(psutil.pids())
        self._members = [pid for pid in self._members if pid in alive]
        new = sorted(alive - self._known)
        self._known = alive
        parents = {pid: parent for pid in new if (parent := self._parent(pid)) is not None}
        found = True
        while found:  # a parent may have a larger number than its child
            found = False
            for pid, parent in list(parents.items()):
                if pid == self._root or parent in self._members:
                    del parents[pid]
                    self._members.append(pid)
                    found = True

    @staticmethod
    def _parent(pid: int) -> int | None:
        try:  # psutil's Process(pid) reads more than the parent's number
            with open(f"/proc/{pid}/stat", "rb") as file:
                return int(file.read().rpartition(b")")[2].split()[1])
        except OSError:  # no /proc, or not for this process
            pass
        try:
            return int(psutil.Process(pid).ppid())
        except psutil.Error:
            return None


def _newest() -> bytes | None:
    """Number of the process that was started last; while it stays, there are no new ones. None: it is not told."""
    try:
        with open("/proc/loadavg", "rb") as file:
            return file.read().split()[-1]
    except OSError:
        return None
