"""Let ``import torchvision`` and its detectors work where its compiled operators do not load.

torchvision's wheel on PyPI is built for CUDA. Beside a CPU-only torch its library ``_C.so`` cannot be loaded,
which torchvision itself tolerates; but its module ``_meta_registrations`` gives shape rules to the operators
``torchvision::nms`` and ``torchvision::qnms`` whether they exist or not, so that the whole import ends in
``operator torchvision::nms does not exist``. Past that, every operator is refused: torchvision asks itself
whether its library was loaded, and answers no.

`install` puts a finder on ``sys.meta_path`` that acts when two of torchvision's modules are looked up:

- ``torchvision._meta_registrations``: torchvision has by then tried to load its library, so whether the
  operators exist is a plain question and not a guess. Where they do (a CUDA install, a CPU wheel), nothing is
  touched. Where not, all are declared; ``nms`` and ``roi_align`` work, the others say why they cannot.
- ``torchvision.ops``: its modules take the answer to "was the library loaded" with them by name, so it is
  changed before any of them is imported, and after the modules that would register compiled gradients.

The finder finds nothing itself; the normal import goes on. Neither torch nor torchvision is imported before
the program does so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch

# The operators of torchvision 0.28 that its Python code calls. The import itself ends where the first two lack.
_IMPORTED = ("nms", "qnms")
_POOLED = "float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_INPUT_SHAPE = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_CONVOLUTION = (
    "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, "
    "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, "
    "bool use_mask"
)
_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": f"(Tensor input, Tensor rois, {_POOLED}, int sampling_ratio, bool aligned) -> Tensor",
    "_roi_align_backward": (
        f"(Tensor grad, Tensor rois, {_POOLED}, {_INPUT_SHAPE}, int sampling_ratio, bool aligned) -> Tensor"
    ),
    "qroi_align": (
        "(Tensor input, Tensor rois, float input_scale, int input_zero_point, float rois_scale, "
        f"int rois_zero_point, {_POOLED}, int sampling_ratio, bool aligned) -> Tensor"
    ),
    "roi_pool": f"(Tensor input, Tensor rois, {_POOLED}) -> (Tensor, Tensor)",
    "_roi_pool_backward": f"(Tensor grad, Tensor rois, Tensor argmax, {_POOLED}, {_INPUT_SHAPE}) -> Tensor",
    "ps_roi_align": f"(Tensor input, Tensor rois, {_POOLED}, int sampling_ratio) -> (Tensor, Tensor)",
    "_ps_roi_align_backward": (
        f"(Tensor grad, Tensor rois, Tensor channel_mapping, {_POOLED}, int sampling_ratio, {_INPUT_SHAPE}) -> Tensor"
    ),
    "ps_roi_pool": f"(Tensor input, Tensor rois, {_POOLED}) -> (Tensor, Tensor)",
    "_ps_roi_pool_backward": (
        f"(Tensor grad, Tensor rois, Tensor channel_mapping, {_POOLED}, {_INPUT_SHAPE}) -> Tensor"
    ),
    "deform_conv2d": f"({_CONVOLUTION}) -> Tensor",
    "_deform_conv2d_backward": f"(Tensor grad, {_CONVOLUTION}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "box_iou_rotated": "(Tensor boxes1, Tensor boxes2) -> Tensor",
    "_cuda_version": "() -> int",
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
        if fullname == "torchvision._meta_registrations":
            _declare_missing_operators()
        elif fullname == "torchvision.ops" and _libraries:
            extension: Any = sys.modules["torchvision.extension"]
            extension._has_ops = _has_ops
        return None


def _has_ops() -> bool:
    """Stand in for torchvision's function of this name."""
    return True


def _declare_missing_operators() -> None:
    import torch  # noqa: PLC0415  torchvision has just imported it

    if all(hasattr(torch.ops.torchvision, name) for name in _IMPORTED):
        return
    from common.vision import operators  # noqa: PLC0415  imports torch

    # A fragment, not the definition: a library that loads after all may still define the namespace.
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    _libraries.append(library)
    # roi_align is made of operators that have gradients; the others lie below autograd, on any device.
    versions: dict[str, tuple[Callable[..., Any], str]] = {
        "nms": (operators.nms, "CompositeExplicitAutograd"),
        "roi_align": (operators.roi_align, "CompositeImplicitAutograd"),
        "_cuda_version": (_no_cuda, "CompositeExplicitAutograd"),
    }
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + schema)
            library.impl(name, *versions.get(name, (_refusal(name), "CompositeExplicitAutograd")))


def _no_cuda() -> int:
    return -1


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        import torch  # noqa: PLC0415  see the module's docstring

        raise NotImplementedError(
            f"torchvision::{name} was called, but torchvision's compiled operators do not load beside torch "
            f"{torch.__version__}, and Tandem has no plain-torch version of this one. Install a torchvision built "
            "for this torch (for one without CUDA: pip install --force-reinstall --no-deps torchvision "
            "--index-url https://download.pytorch.org/whl/cpu)."
        )

    return refuse
