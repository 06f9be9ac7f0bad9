"""Where the graphs of training and of evaluation are at the same place of the model."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from common.partition.liveness import Position
from common.partition.steps import Step

_COUNTED = re.compile(r"_\d+$")


def aligned(
    steps: Sequence[Step],
    places: Sequence[Position],
    others: Sequence[Step],
    other_places: Sequence[Position],
) -> list[Position | None]:
    """For each of ``places``, the one of ``other_places`` behind the same operation; None where there is none.

    Two operations are the same where they have the same kind and run in the same modules, in the same order as all
    other pairs.
    """
    keys, other_keys = list(map(_key, steps)), list(map(_key, others))
    partner = dict(zip(range(len(keys)), range(len(keys)), strict=True))
    if keys != other_keys:
        matcher = SequenceMatcher(None, keys, other_keys, autojunk=False)
        blocks = matcher.get_matching_blocks()
        partner = {block.a + i: block.b + i for block in blocks for i in range(block.size)}
    by_step = {place.before - 1: place for place in other_places}
    return [by_step.get(partner.get(place.before - 1, -1)) for place in places]


def _key(step: Step) -> tuple[str, tuple[str, ...], str]:
    return step.kind, step.modules, _COUNTED.sub("", step.name)
