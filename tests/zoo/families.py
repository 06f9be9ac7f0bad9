"""All entries of the zoo.

The survey that Tandem's partitioning rests on counted 169 models: 38 of torchvision, 95 of timm, 14 of ultralytics
and 22 of transformers. These are as many of each, and two more that are of no suite. Where the survey gave counts
and no names, there is one model for each family or module file.
"""

from tests.zoo.entry import Entry
from tests.zoo.of_timm import timm_entries
from tests.zoo.of_torchvision import torchvision_entries
from tests.zoo.of_transformers import transformers_entries
from tests.zoo.of_ultralytics import ultralytics_entries
from tests.zoo.other import other_entries

LEFT_OUT = (
    "torchvision mvit_v2_s, timm samvit_base_patch16: not in the list, for the time and memory that a check takes.",
    "timm deepseek_vit, gemma4_vit: not in the list; the smallest of each has over 140 million parameters.",
)
"""Families of the suites that the zoo has no model of, and why."""


def all_entries() -> list[Entry]:
    """In the order of the suites. An entry is known by suite and name: resnet18 may be in two."""
    return [
        *torchvision_entries(),
        *timm_entries(),
        *ultralytics_entries(),
        *transformers_entries(),
        *other_entries(),
    ]


def find_entry(suite: str, name: str) -> Entry:
    """The entry of a suite and a name.

    Raises:
        LookupError: there is none.
    """
    for entry in all_entries():
        if (entry.suite, entry.name) == (suite, name):
            return entry
    raise LookupError(f"the zoo has no {name} of {suite}")
