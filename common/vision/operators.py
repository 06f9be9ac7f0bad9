"""Plain-torch versions of the torchvision operators that detectors call: `nms` and `roi_align`.

Letters in shapes: N images or boxes, C channels, H and W cells of a feature map, K regions, P and Q pooled rows
and columns (bins of one region), T sampled points of all regions together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# Boxes compared at once by nms: larger means fewer steps, but more comparisons with boxes that fall out anyway.
_BLOCK = 128


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: the boxes that overlap no better box by more than the threshold.

    Args:
        dets: boxes (N, 4) as x1, y1, x2, y2.
        scores: one score per box (N,).
        iou_threshold: a box is dropped when its intersection over union with a kept box exceeds this.

    Returns:
        Indices of the kept boxes, int64, by falling score; ties keep their order.

    Raises:
        ValueError: the shapes are not (N, 4) and (N,).
    """
    if scores.dim() != 1 or dets.shape != (len(scores), 4):
        raise ValueError(f"nms takes boxes (N, 4) and scores (N,), but got {tuple(dets.shape)}, {tuple(scores.shape)}")
    # In half precision the area of a box of 256 x 256 is infinite.
    boxes = dets.to(torch.promote_types(dets.dtype, torch.float32))
    waiting = scores.argsort(descending=True, stable=True)
    kept = [waiting[:0]]
    while waiting.numel() > 0:
        block, waiting = waiting[:_BLOCK], waiting[_BLOCK:]
        kept.append(block[_undefeated(_overlaps(boxes[block], boxes[block], iou_threshold))])
        waiting = waiting[~_overlaps(boxes[kept[-1]], boxes[waiting], iou_threshold).any(dim=0)]
    return torch.cat(kept)


def _overlaps(a: Tensor, b: Tensor, iou_threshold: float) -> Tensor:
    """Whether each box of `a` (N, 4) and each of `b` (M, 4) overlap by more than the threshold: bool (N, M)."""
    left, top, right, bottom = a.t().unsqueeze(2).unbind()
    left_b, top_b, right_b, bottom_b = b.t().contiguous().unbind()
    width = (torch.minimum(right, right_b) - torch.maximum(left, left_b)).clamp_(min=0)
    height = (torch.minimum(bottom, bottom_b) - torch.maximum(top, top_b)).clamp_(min=0)
    shared = width.mul_(height)
    areas = (right - left) * (bottom - top) + (right_b - left_b) * (bottom_b - top_b)
    # Two empty boxes give 0/0: not a number is not above the threshold, so both stay.
    return shared / areas.sub_(shared) > iou_threshold


def _undefeated(overlaps: Tensor) -> Tensor:
    """Which boxes (N,) are kept, when each that is kept drops those after it that it overlaps (N, N).

    Dropping is repeated until nothing changes: whether box i stays depends on boxes before i alone, so round
    after round at least one more of them is settled, and the only state that repeats is the sought one.
    """
    drops = overlaps.triu(diagonal=1)
    kept, before = ~drops.any(dim=0), None
    while before is None or not torch.equal(kept, before):
        kept, before = ~drops[kept].any(dim=0), kept
    return kept


def roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Average bilinear samples of a feature map in a grid of bins over each region (Mask R-CNN, section 3).

    Differentiable with respect to `input`, once; half precision is computed in float32.

    Args:
        input: feature maps (N, C, H, W).
        rois: regions (K, 5) as index into the batch, x1, y1, x2, y2.
        spatial_scale: cells of the feature map per unit of the regions' coordinates.
        pooled_height: bins of one region downwards, P.
        pooled_width: bins of one region across, Q.
        sampling_ratio: samples per bin in either direction; 0 or less: one per cell that a bin spans, rounded up.
        aligned: whether the centre of cell i lies at i + 0.5; otherwise at i, and regions are at least 1 wide.

    Returns:
        Pooled regions (K, C, P, Q).
    """
    _, channels, height, width = input.shape
    dtype = torch.promote_types(input.dtype, torch.float32)
    corners = rois.detach().to(dtype)[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    x1, y1, x2, y2 = corners.unbind(dim=1)
    rows = _Axis.over(y1, y2, pooled_height, height, sampling_ratio, aligned)
    columns = _Axis.over(x1, x2, pooled_width, width, sampling_ratio, aligned)

    # Samples lie one after another (T,): by region, in it by bin, in it by row and column.
    per_bin = rows.samples * columns.samples
    per_roi = per_bin * (pooled_height * pooled_width)
    total = len(rois) * pooled_height * pooled_width * sampling_ratio**2 if sampling_ratio > 0 else None
    roi = torch.repeat_interleave(per_roi, output_size=total)
    first = per_roi.cumsum(0) - per_roi
    rank = torch.arange(len(roi), device=roi.device) - first[roi]
    bin_, sample = rank // per_bin[roi], rank % per_bin[roi]
    y, y_weight = rows.interpolate(roi, bin_ // pooled_width, sample // columns.samples[roi])
    x, x_weight = columns.interpolate(roi, bin_ % pooled_width, sample % columns.samples[roi])

    # A bin is a weighted sum of cells, 4 per sample, which is what embedding_bag does without an intermediate.
    y = y + rois[roi, :1].long() * height
    cells = (y * width).unsqueeze(2) + x.unsqueeze(1)
    weights = y_weight.unsqueeze(2) * x_weight.unsqueeze(1) / per_bin[roi].reshape(-1, 1, 1)
    bins = torch.arange(pooled_height * pooled_width, device=roi.device)
    starts = (first.unsqueeze(1) + bins * per_bin.unsqueeze(1)) * 4
    table = input.to(dtype).permute(0, 2, 3, 1).reshape(-1, channels)
    pooled = embedding_bag(
        cells.flatten(), table, starts.flatten(), mode="sum", per_sample_weights=weights.flatten().to(dtype)
    )
    pooled = pooled.view(len(rois), pooled_height, pooled_width, channels).permute(0, 3, 1, 2)
    return pooled.contiguous().to(input.dtype)


@dataclass(frozen=True)
class _Axis:
    """Regions along one direction of the feature map."""

    start: Tensor  # (K,) in cells
    bin_size: Tensor  # (K,) in cells
    samples: Tensor  # (K,) per bin, int64; 0 for a region without extent
    cells: int

    @classmethod
    def over(cls, low: Tensor, high: Tensor, bins: int, cells: int, sampling_ratio: int, aligned: bool) -> _Axis:
        """Divide the regions from `low` to `high` (K,), in cells, into bins."""
        extent = high - low if aligned else (high - low).clamp(min=1)
        samples = torch.full_like(extent, sampling_ratio) if sampling_ratio > 0 else (extent / bins).ceil().clamp(min=0)
        return cls(low, extent / bins, samples.long(), cells)

    def interpolate(self, roi: Tensor, bin_: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """The two cells around each sample (T, 2) and their shares in it (T, 2); both 0 beyond the map's rim."""
        within_bin = (sample + 0.5) * self.bin_size[roi] / self.samples[roi]
        at = self.start[roi] + bin_ * self.bin_size[roi] + within_bin
        # Up to one cell outside, a sample takes the value of the rim. Not a number is outside.
        inside = (at >= -1) & (at <= self.cells)
        at = torch.where(inside, at, 0).clamp(0, self.cells - 1)
        low = at.floor()
        share = at - low
        cells = torch.stack([low, (low + 1).clamp(max=self.cells - 1)], dim=1).long()
        return cells, torch.stack([1 - share, share], dim=1) * inside.unsqueeze(1)
