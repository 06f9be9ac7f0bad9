"""The words of a codec: ``[taylor+][ef+|delta+][topk:R+|randtopk:R+]VALUE[/c|/b][/s][+shuffle][+zstd|+lz4|+auto]``.

Every combination that can work is taken; of the others each is refused with its reason and with what comes nearest.
A spec may come from a peer: it is read as words, and nothing is loaded by it.
"""

import re
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeAlias

from common.errors import UsageError
from common.naming import nearest

Direction: TypeAlias = Literal["up", "down"]
"""What travels: ``up`` are activations, ``down`` are gradients, as most jobs send them."""
Sharing: TypeAlias = Literal["tensor", "channel", "block"]
"""What has a grid of its own."""

OWN_PREFIX = "own:"
FLOATS = ("none", "fp16", "bf16")
GRIDS = {"int8": 8, "int4": 4, "int2": 2}
MAX_RATIO = 0.5
_KINDS: dict[str, tuple[str, ...]] = {
    "feedback": ("taylor",),
    "memory": ("ef", "delta"),
    "sparsity": ("topk", "randtopk"),
    "value": (*FLOATS, *GRIDS),
    "shuffle": ("shuffle",),
    "lossless": ("zstd", "lz4", "auto"),
}
_MARKS: tuple[list[str], ...] = ([], ["c"], ["b"], ["s"], ["c", "s"], ["b", "s"])
_KIND = {name: kind for kind, names in _KINDS.items() for name in names}
_ORDER = list(_KINDS)
_RATIO = re.compile(r"\d{0,9}\.?\d{1,9}")


@dataclass(frozen=True)
class Spec:
    """A codec as it was named."""

    text: str
    taylor: bool = False
    memory: str = ""
    """``ef``, ``delta`` or none."""
    sparsity: str = ""
    """``topk``, ``randtopk`` or none."""
    ratio: float = 0.0
    value: str = "none"
    sharing: Sharing = "tensor"
    stochastic: bool = False
    shuffle: bool = False
    lossless: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether decoding gives back the very same tensors."""
        return self.value == "none" and not self.sparsity


def parse_spec(text: str, direction: Direction | None = None) -> Spec:
    """The codec that a text names.

    Args:
        text: such as ``ef+topk:0.1+int8+zstd``.
        direction: what it is for; None allows what either direction does.

    Raises:
        UsageError: it names no codec, or one that would do no good.
    """
    words = text.split("+")
    kinds = [_kind(text, word) for word in words]
    _check_order(text, words, kinds)
    by_kind = dict(zip(kinds, words, strict=True))
    value, *marks = by_kind.get("value", "none").split("/")
    sparsity, ratio = _sparsity(text, by_kind.get("sparsity", ""))
    spec = Spec(
        text,
        taylor="feedback" in by_kind,
        memory=by_kind.get("memory", ""),
        sparsity=sparsity,
        ratio=ratio,
        value=value,
        sharing="channel" if "c" in marks else "block" if "b" in marks else "tensor",
        stochastic="s" in marks,
        shuffle="shuffle" in by_kind,
        lossless=by_kind.get("lossless", ""),
    )
    if not {"value", "sparsity"} & by_kind.keys():
        ranked = sorted([*zip(map(_ORDER.index, kinds), words, strict=True), (_ORDER.index("value"), "int4/c")])
        _refuse(text, f"it names no value stage, such as {'+'.join(word for _, word in ranked)}")
    _check_value(text, value, marks)
    _check_together(spec)
    if direction is not None:
        _check_direction(spec, direction)
    return spec


def _kind(text: str, word: str) -> str:
    if word.startswith(OWN_PREFIX):
        return "value"
    name = re.split("[:/]", word, maxsplit=1)[0]
    if name not in _KIND or (word != name and _KIND[name] not in ("sparsity", "value")):
        known = [each for names in _KINDS.values() for each in names]
        _refuse(text, f"unknown stage {word!r}; {nearest(name, known)}")
    return _KIND[name]


def _check_order(text: str, words: list[str], kinds: list[str]) -> None:
    for kind in set(kinds):
        if kinds.count(kind) > 1:
            same = [word for word, its in zip(words, kinds, strict=True) if its == kind]
            _refuse(text, f"{' and '.join(same)} are both a {kind} stage; name one of them")
    ranks = [_ORDER.index(kind) for kind in kinds]
    if ranks != sorted(ranks):
        ordered = [word for _, word in sorted(zip(ranks, words, strict=True))]
        _refuse(text, f"its stages are in another order than they work; say {'+'.join(ordered)}")


def _sparsity(text: str, word: str) -> tuple[str, float]:
    if not word:
        return "", 0.0
    name, _, number = word.partition(":")
    if not _RATIO.fullmatch(number) or not 0 < float(number) <= MAX_RATIO:
        _refuse(text, f"{name} takes the part that travels, above 0 and up to {MAX_RATIO}, such as {name}:0.1")
    return name, float(number)


def _check_value(text: str, value: str, marks: list[str]) -> None:
    if marks and value not in GRIDS:
        _refuse(
            text,
            f"/{marks[0]} is for {', '.join(GRIDS)}; {value} has no scale to share among a channel and rounds to "
            f"nearest, so say {value}",
        )
    if marks not in _MARKS:
        _refuse(text, f"behind {value} come /c (per channel) or /b (per block), and then /s (stochastic)")


def _check_together(spec: Spec) -> None:
    text = spec.text
    if spec.shuffle and spec.value not in FLOATS:
        _refuse(text, f"codes of {spec.value} are a byte or less, with no bytes to shuffle; leave +shuffle out")
    if spec.shuffle and not spec.lossless:
        _refuse(text, f"shuffled bytes are no fewer; say {text}+zstd")
    if spec.taylor and spec.memory == "ef":
        _refuse(text, "taylor is for activations and ef for gradients; no direction has both")
    if not spec.is_exact:
        return
    if spec.taylor:
        _refuse(text, "taylor corrects the error of a lossy codec, and none has none; say taylor+int8")
    if spec.memory == "ef":
        _refuse(text, "ef keeps what a lossy codec leaves out, and none leaves out nothing; say ef+int8")
    if spec.memory == "delta":
        _refuse(text, "delta makes changes smaller so that fewer bits do, and none keeps all bits; say delta+int4/c")


def _check_direction(spec: Spec, direction: Direction) -> None:
    rest = spec.text.removeprefix("taylor+").removeprefix(f"{spec.memory}+")
    if spec.memory == "ef" and direction == "up":
        _refuse(
            spec.text,
            "ef would add one sample's error to another sample's activations; errors add up over steps in gradients "
            f"only, so use it for these, and for activations say delta+{rest} or {rest}",
        )
    if spec.memory == "delta" and direction == "down":
        _refuse(
            spec.text,
            "delta relies on a sample's tensor being near what it was an epoch ago, as activations are and gradients "
            f"are not; for gradients, say ef+{rest} or {rest}",
        )
    if spec.taylor and direction == "down":
        _refuse(
            spec.text,
            "taylor corrects gradients for the error of the activations that they were computed on, so it belongs to "
            f"the codec of the activations; for gradients, say {spec.text.removeprefix('taylor+')}",
        )


def _refuse(text: str, reason: str) -> NoReturn:
    raise UsageError(f"codec {text!r}: {reason}")
