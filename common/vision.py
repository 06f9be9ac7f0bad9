"""Let ``import torchvision`` work where its compiled operators do not load.

torchvision's wheel on PyPI is built for CUDA. Beside a CPU-only torch its library ``_C.so`` cannot be loaded,
which torchvision itself tolerates; but its next module, ``_meta_registrations``, gives shape rules to the
operators ``torchvision::nms`` and ``torchvision::qnms`` whether they exist or not, so that the whole import
ends in ``operator torchvision::nms does not exist``. Declaring these two operators in between is enough.

`install` puts a finder on ``sys.meta_path`` that acts when that very module is looked up. At that moment
torchvision has already tried to load its library, so whether the operators exist is a plain question and not
a guess: where they do (a CUDA install, a CPU wheel), nothing is touched. The finder finds nothing itself;
the normal import goes on. Neither torch nor torchvision is imported before the program does so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_NEEDS_OPERATORS = "torchvision._meta_registrations"
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# What a Library registers is withdrawn when the object dies: it lives as long as the process.
_libraries: list[torch.library.Library] = []


def install() -> None:
    """Register the finder; a second call changes nothing."""
    if not any(isinstance(finder, _OperatorFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OperatorFinder())


class _OperatorFinder:
    """A meta-path finder that declares missing operators and leaves every import to the others."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname == _NEEDS_OPERATORS:
            _declare_missing_operators()
        return None


def _declare_missing_operators() -> None:
    import torch  # noqa: PLC0415  torchvision has just imported it

    missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if not missing:
        return
    # A fragment, not the definition: a library that loads after all may still define the namespace.
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    _libraries.append(library)
    for name in missing:
        library.define(_SCHEMAS[name])
    if "nms" in missing:
        library.impl("nms", nms, "CPU")


def nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression: the boxes that overlap no better box by more than the threshold.

    Args:
        dets: boxes (N, 4) as x1, y1, x2, y2.
        scores: one score per box (N,).
        iou_threshold: a box is dropped when its intersection over union with a kept box exceeds this.

    Returns:
        Indices of the kept boxes, int64, by falling score; ties keep their order.
    """
    import torch  # noqa: PLC0415  see the module's docstring

    areas = (dets[:, 2] - dets[:, 0]) * (dets[:, 3] - dets[:, 1])
    candidates = scores.argsort(descending=True, stable=True)
    kept = []
    while candidates.numel() > 0:
        best, candidates = candidates[0], candidates[1:]
        kept.append(best)
        top_left = torch.maximum(dets[best, :2], dets[candidates, :2])
        bottom_right = torch.minimum(dets[best, 2:], dets[candidates, 2:])
        shared = (bottom_right - top_left).clamp(min=0).prod(dim=1)
        # Two empty boxes give 0/0: not a number is not above the threshold, so both stay.
        overlap = shared / (areas[best] + areas[candidates] - shared)
        candidates = candidates[~(overlap > iou_threshold)]
    return torch.stack(kept) if kept else scores.new_empty(0, dtype=torch.int64)
