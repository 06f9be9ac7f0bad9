"""A rail: one supply line whose power or energy is measured, what it feeds, and whether a total counts it."""

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Rail:
    """One measured supply line; its name is unique within a meter."""

    name: str
    """As the board spells it."""
    role: str
    """What it feeds: module, cpu, gpu, ddr, soc, wifi, ..., several joined by +, or other."""
    in_total: bool = True
    """False where another rail already holds this one's energy, or where it feeds more than what is measured."""
    counter: bool = False
    """Readings are joules since some moment; else watts at this moment."""
    range_j: float | None = None
    """Where a counter starts again from 0; None: never."""


# Inputs that feed all other rails of a Jetson module.
_MODULE_INPUTS = {"VDD_IN", "POM_5V_IN", "5V_IN"}
# Of the AGX Orin; VIN_SYS_5V0 feeds it (NVIDIA's developer guide, "software-based power consumption modeling").
_INSIDE_OTHERS = {"VDDQ_VDD2_1V8AO"}
_WORDS = (
    ("cpu", re.compile(r"(^|_)CPU")),
    ("gpu", re.compile(r"(^|_)GPU")),
    ("soc", re.compile(r"(^|_)(SOC|CORE)(_|$)")),
    ("cv", re.compile(r"(^|_)CV(_|$)")),
    ("ddr", re.compile(r"(^|_)(DDR|VDDRQ|VDDQ|DRAM)")),
    ("wifi", re.compile(r"(^|_)(WIFI|WL)(_|$)")),
)


def role_of(label: str) -> str:
    """What a rail feeds, from the words of its label."""
    if label in _MODULE_INPUTS:
        return "module"
    return "+".join(role for role, words in _WORDS if words.search(label.upper())) or "other"


def jetson_rail(label: str, labels: Collection[str], *, carrier: bool = False) -> Rail:
    """A rail of a Jetson beside its other ``labels``.

    A module's input holds the energy of all the module's rails. Rails of the carrier board are kept out of the
    total, so that it is the module's on every board.
    """
    fed_by_input = bool(_MODULE_INPUTS.intersection(labels)) and label not in _MODULE_INPUTS
    return Rail(
        label, "carrier" if carrier else role_of(label), not (fed_by_input or carrier or label in _INSIDE_OTHERS)
    )
