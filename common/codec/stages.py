"""From a spec to the stages that it names."""

import torch

from common.codec.affine import Affine
from common.codec.chain import Chain, Coder
from common.codec.delta import Delta
from common.codec.feedback import ErrorFeedback
from common.codec.grammar import GRIDS, OWN_PREFIX, Spec
from common.codec.limit import MemoryLimit
from common.codec.lossless import LOSSLESS, LosslessStage, Stored
from common.codec.own import make_own
from common.codec.samples import SampleMemory
from common.codec.sparsify import TopK
from common.codec.values import Plain, Rounded, Shuffled, ValueStage


def make_coder(spec: Spec, limit: MemoryLimit, samples: int) -> Coder:
    """All but the lossless stage.

    Args:
        spec: what is named.
        limit: of the memory of `ef` and `delta`.
        samples: of the data set, as far as known.

    Raises:
        UsageError: it names a codec of one's own that nobody has loaded here.
    """
    sparsity = TopK(spec.ratio, explore=spec.sparsity == "randtopk") if spec.sparsity else None
    chain = Chain(_value(spec), sparsity)
    if spec.memory == "ef":
        return ErrorFeedback(chain, limit)
    if spec.memory == "delta":
        return Delta(Chain(_milder(spec)), chain, SampleMemory(limit, samples))
    return chain


def make_lossless(spec: Spec) -> LosslessStage:
    """The stage that makes bytes fewer."""
    return LOSSLESS[spec.lossless]() if spec.lossless else Stored()


def _value(spec: Spec) -> ValueStage:
    if spec.value.startswith(OWN_PREFIX):
        return make_own(spec.value)
    if spec.value in GRIDS:
        return Affine(GRIDS[spec.value], sharing=spec.sharing, stochastic=spec.stochastic)
    stage = _rounded(spec.value)
    return Shuffled(stage, 0 if spec.value == "none" else 2) if spec.shuffle else stage


def _milder(spec: Spec) -> ValueStage:
    """What `delta` sends samples by that are new: of 4 and 2 bits, their 8-bit kin; else half precision."""
    if GRIDS.get(spec.value, 8) < 8:
        return Affine(8, sharing=spec.sharing)
    return Shuffled(_rounded("fp16"), 2) if spec.shuffle else _rounded("fp16")


def _rounded(value: str) -> ValueStage:
    if value == "none":
        return Plain()
    return Rounded(torch.float16 if value == "fp16" else torch.bfloat16)
