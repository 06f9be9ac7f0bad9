"""Where in the model a call is made: in which modules, in which visit of the innermost, as which call of that visit."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn


class Place(NamedTuple):
    """Names a call even where loops elsewhere run longer or shorter."""

    path: str
    """Of the innermost module."""
    visit: int
    """Which visit of it."""
    after: str
    """The module within that was left last in this visit."""
    order: int
    """Which call of this function since then."""
    round: int
    """How often all this was so in this visit before: which round of a loop."""
    code: int
    """What is called."""


class Places:
    """Follows a model through its modules, by their ``forward``; hooks would turn fast paths of attention off."""

    def __init__(self, model: nn.Module) -> None:
        self._watched = [
            _Watched(self, module, path)
            for path, module in model.named_modules()
            if path and not isinstance(module, torch.jit.ScriptModule)
        ]
        self.start()

    def start(self) -> None:
        """Forget all that happened."""
        self._visits: dict[str, int] = {}
        self._stack: list[list[Any]] = [["", 0, "", {}, Counter()]]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch from here on; whatever ends the run, the modules are as they were."""
        self.start()
        try:
            for each in self._watched:
                each.attach()
            yield
        finally:
            for each in self._watched:
                each.detach()

    def enter(self, path: str) -> None:
        """A module is called."""
        visit = self._visits.get(path, 0)
        self._visits[path] = visit + 1
        self._stack.append([path, visit, "", {}, Counter()])

    def leave(self) -> None:
        """The innermost module is done."""
        path = self._stack.pop()[0]
        self._stack[-1][2:4] = path, {}

    def call(self, code: int) -> Place:
        """A call is made; returns its place. Calls of other functions are of no account for it."""
        path, visit, after, counts, rounds = self._stack[-1]
        order = counts.get(code, 0)
        counts[code] = order + 1
        rounds[after, order, code] += 1
        return Place(path, visit, after, order, rounds[after, order, code] - 1, code)

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the modules around, outermost first."""
        return tuple(each[0] for each in self._stack[1:])


class _Watched:
    """Stands in a module's ``forward`` during a run."""

    def __init__(self, places: Places, module: nn.Module, path: str) -> None:
        self._places, self._module, self._path = places, module, path
        self.__wrapped__: Callable[..., Any] | None = None  # whose signature it shows
        self._own = False

    def attach(self) -> None:
        attributes = self._module.__dict__
        self._own = "forward" in attributes
        self.__wrapped__ = self._module.forward
        attributes["forward"] = self

    def detach(self) -> None:
        if self.__wrapped__ is None:
            return
        if self._own:
            self._module.__dict__["forward"] = self.__wrapped__
        else:
            self._module.__dict__.pop("forward", None)
        self.__wrapped__ = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._places.enter(self._path)
        try:
            return self.__wrapped__(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._places.leave()
