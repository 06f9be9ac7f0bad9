"""From recordings to parts: which weights go where, and by what a cut is known on both sides."""

from collections.abc import Mapping, Sequence

from torch import nn

from common.errors import PartitionError
from common.partition.recording.leaving import Leaving
from common.partition.recording.parts import Part, Way
from common.partition.recording.places import Place
from common.partition.recording.record import Recording
from common.partition.steps import state_of


def recorded_parts(
    model: nn.Module, recordings: Mapping[bool, Sequence[Recording]], bounds: Mapping[bool, Sequence[int]]
) -> list[nn.Module]:
    """Cut a model.

    The parts share its parameters and buffers: each has those that its calls need in any recording. A module that
    none needs goes to the last part; what several need is in each of them.

    Args:
        model: the module that was recorded.
        recordings: by mode (True for training) the recordings of one or more examples, such as the first and the
            later steps of a text generator. A run like none of them works too, but more may cross then.
        bounds: by mode, for each cut how many steps of the first recording lie before it, ascending. A mode that
            is not there the parts do not have.

    Raises:
        PartitionError: no such cut, or one that a recording never passes.
    """
    cuts = {len(befores) for befores in bounds.values()}
    if len(cuts) != 1 or any(not recordings.get(training) for training in bounds):
        raise PartitionError("a model is cut at equally many places in each mode, of which there is a recording")
    count = cuts.pop() + 1
    needed: list[set[str]] = [set() for _ in range(count)]
    ways: list[dict[bool, Way]] = [{} for _ in range(count)]
    for training, befores in bounds.items():
        recorded = recordings[training]
        places = _places(recorded[0], befores)
        for number, recording in enumerate(recorded):
            for names, used in zip(needed, recording.variant.state(_found(recording, places, number)), strict=True):
                names.update(used)
        for modes, way in zip(ways, _ways(recorded, places, training), strict=True):
            modes[training] = way
    owned = _owned(model, needed)
    return [Part(model, names, way) for names, way in zip(owned, ways, strict=True)]


def _places(recording: Recording, befores: Sequence[int]) -> list[Place | None]:
    if list(befores) != sorted(set(befores)):
        raise PartitionError(f"the cuts {list(befores)} are not in ascending order")
    return [recording.variant.place(before) for before in befores]


def _found(recording: Recording, places: Sequence[Place | None], number: int) -> list[int]:
    found = []
    for place in places:
        before = recording.variant.before(place)
        if before is None:
            raise PartitionError(f"recording {number} has no cut at {_words(place)}; cut elsewhere, or leave it out")
        found.append(before)
    if found != sorted(found):
        raise PartitionError(f"recording {number} passes the cuts in another order than recording 0")
    return found


def _ways(recorded: Sequence[Recording], places: Sequence[Place | None], training: bool) -> list[Way]:
    variants = tuple(recording.variant for recording in recorded)
    local: dict[str, object] = {}
    for recording in reversed(recorded):
        local |= recording.local
    mode = "training" if training else "evaluation"
    keys = [f"{mode}, cut {number}, {_words(place)}" for number, place in enumerate(places)]
    leaving = [Leaving(key, place, variants) for key, place in zip(keys, places, strict=True)]
    return [
        Way(variants, entering, after, local) for entering, after in zip([None, *keys], [*leaving, None], strict=True)
    ]


def _words(place: Place | None) -> str:
    if place is None:
        return "the inputs"
    behind = f" behind {place.after}" if place.after else ""
    return (
        f"call {place.order} ({place.code:08x}){behind} in round {place.round} of visit {place.visit} of "
        f"{place.path or 'the model'}"
    )


def _owned(model: nn.Module, needed: Sequence[set[str]]) -> list[list[str]]:
    """Names of what each part holds, in the order of the model's own."""
    tensors: dict[int, int] = {}
    modules: dict[str, int] = {}
    state = state_of(model)
    for part, names in enumerate(needed):
        tensors |= {id(state[name]): part for name in names}
        modules |= {name.rpartition(".")[0]: part for name in names}
    owned: list[list[str]] = [[] for _ in needed]
    for name, tensor in state.items():
        using = [part for part, names in enumerate(needed) if name in names]
        # A name that is not used goes where its tensor is under another, or else to its neighbours: the batch count
        # of a norm, which evaluation does not ask for, stays with the norm.
        aside = tensors.get(id(tensor), modules.get(name.rpartition(".")[0], len(needed) - 1))
        for part in using or [aside]:
            owned[part].append(name)
    return owned
