"""Keeps the books of energy: readings come in, joules of each rail and of each window go out; no thread, no clock."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.metering.integral import Segment, segment
from common.metering.rails import Rail
from common.metering.report import WindowEnergy

BRIDGED = 2
"""Rounds that a rail of watts may miss and still be taken to have gone straight from reading to reading."""


@dataclass
class Account:
    """One rail's books."""

    joules: float = 0.0
    measured_s: float = 0.0
    peak_w: float = 0.0
    watts: float | None = None
    """At the last reading; None: unknown, or lost since."""
    last: tuple[float, float] | None = None
    """Time and value of the last reading."""
    missed: int = 0
    """Rounds since then in which it could not be read."""


@dataclass(eq=False)
class Window:
    """A stage from its start to its end, or to now."""

    name: str
    start_s: float
    end_s: float = math.inf


@dataclass
class _Books:
    count: int = 0
    seconds: float = 0.0
    rails_j: dict[str, float] = field(default_factory=dict)


class Ledger:
    """The books of all rails and windows.

    A rail of watts that is lost for more than ``BRIDGED`` rounds counts as unmeasured meanwhile. A counter goes on
    counting, and gives what it gained however long it was lost.
    """

    def __init__(self, rails: Iterable[Rail]) -> None:
        self.rails = {rail.name: rail for rail in rails}
        self.accounts = {name: Account() for name in self.rails}
        self.peak_w = 0.0
        self._pending: list[Window] = []
        self._books: dict[str, _Books] = {}

    def open(self, name: str, time_s: float) -> Window:
        """Begin a window."""
        window = Window(name, time_s)
        self._pending.append(window)
        return window

    def close(self, window: Window, time_s: float) -> None:
        """End a window; its energy is complete with the first reading behind its end."""
        window.end_s = time_s
        books = self._books.setdefault(window.name, _Books())
        books.count += 1
        books.seconds += time_s - window.start_s

    def add(self, time_s: float, values: Mapping[str, float]) -> None:
        """Enter readings of some of the rails."""
        for name, value in values.items():
            account = self.accounts[name]
            line = self._line(self.rails[name], account, time_s, value)
            account.last, account.missed = (time_s, value), 0
            account.watts = None if self.rails[name].counter else value
            if line is not None:
                account.joules += line.joules
                account.measured_s += line.end_s - line.start_s
                account.watts = line.end_w
                self._share_out(name, line)
            account.peak_w = max(account.peak_w, account.watts or 0.0)

    def lose(self, names: Iterable[str]) -> None:
        """Note rails that could not be read."""
        for name in names:
            self.accounts[name].watts = None
            self.accounts[name].missed += 1

    def settle(self) -> None:
        """After all readings of a round: note the total's peak, drop windows that are complete."""
        watts = [self.accounts[name].watts for name, rail in self.rails.items() if rail.in_total]
        if all(each is not None for each in watts):
            self.peak_w = max(self.peak_w, sum(each for each in watts if each is not None))
        self._pending = [window for window in self._pending if not self._complete(window)]

    def windows(self) -> dict[str, WindowEnergy]:
        """The windows' energy by name, as far as it is known."""
        return {
            name: WindowEnergy(
                books.count,
                books.seconds,
                sum(joules for rail, joules in books.rails_j.items() if self.rails[rail].in_total),
                {rail: books.rails_j.get(rail, 0.0) for rail in self.rails},
            )
            for name, books in self._books.items()
        }

    def _line(self, rail: Rail, account: Account, time_s: float, value: float) -> Segment | None:
        if account.last is None or (not rail.counter and account.missed > BRIDGED):
            return None
        return segment(rail, *account.last, time_s, value)

    def _share_out(self, rail: str, line: Segment) -> None:
        for window in self._pending:
            if joules := line.joules_between(window.start_s, window.end_s):
                books = self._books.setdefault(window.name, _Books())
                books.rails_j[rail] = books.rails_j.get(rail, 0.0) + joules

    def _complete(self, window: Window) -> bool:
        """Whether every rail was read behind its end; one that is lost for good must not keep windows for ever."""
        return all(
            account.missed > BRIDGED or (account.last is not None and account.last[0] >= window.end_s)
            for account in self.accounts.values()
        )
