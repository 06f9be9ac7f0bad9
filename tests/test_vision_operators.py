"""The plain-torch nms and roi_align give what their definitions say, box by box and cell by cell."""

import math

import pytest
import torch
from torch import Tensor

from common.vision.operators import nms, roi_align


def brute_force_nms(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    """Keep a box unless a better kept one overlaps it: the definition, pair by pair."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    shared = width * height
    return shared / (area - shared) if area > shared else 0.0


def some_boxes(count: int, seed: int, unit: int = 1) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) and scores (N,) of few different values: equal boxes, empty ones, exact overlaps and ties occur."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 8, (count, 2), generator=generator)
    boxes = torch.cat([corners, corners + torch.randint(0, 6, (count, 2), generator=generator)], dim=1)
    return unit * boxes.double(), torch.randint(0, 10, (count,), generator=generator).double()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_nms_is_the_brute_force_one(seed: int, threshold: float, dtype: torch.dtype) -> None:
    # Coordinates in units of 64: in float16 most areas overflow.
    boxes, scores = some_boxes(40, seed, unit=64)

    kept = nms(boxes.to(dtype), scores.to(dtype), threshold)

    assert kept.dtype == torch.int64
    assert kept.tolist() == brute_force_nms(boxes.tolist(), scores.tolist(), threshold)


def test_nms_of_more_boxes_than_are_compared_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, generator=generator, dtype=torch.float64) * 100
    boxes = torch.cat([corners, corners + torch.rand(300, 2, generator=generator) * 40], dim=1)
    scores = torch.rand(300, generator=generator)

    kept = nms(boxes, scores, 0.3).tolist()

    assert kept == brute_force_nms(boxes.tolist(), scores.tolist(), 0.3)
    assert 128 < len(kept) < 300


def test_nms_of_a_chain_keeps_every_second_box() -> None:
    # Each box overlaps its neighbours only, so whether one stays depends on all the better ones.
    left = torch.arange(300.0)
    boxes = torch.stack([left, torch.zeros(300), left + 1.5, torch.ones(300)], dim=1)

    assert nms(boxes, -left, 0.1).tolist() == list(range(0, 300, 2))


def test_nms_of_no_boxes() -> None:
    kept = nms(torch.empty(0, 4), torch.empty(0), 0.5)

    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


@pytest.mark.parametrize(("boxes", "scores"), [((3, 4), (2,)), ((3, 5), (3,)), ((4,), (1,)), ((3, 4), (3, 1))])
def test_nms_refuses_other_shapes(boxes: tuple[int, ...], scores: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="boxes"):
        nms(torch.zeros(boxes), torch.zeros(scores), 0.5)


def slow_roi_align(
    features: Tensor, rois: Tensor, scale: float, bins: tuple[int, int], ratio: int, aligned: bool
) -> Tensor:
    """The definition, sample by sample; a sample is the sum of all cells weighted by a tent around it."""
    pooled = features.new_zeros(len(rois), features.shape[1], *bins)
    for k, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * scale - (0.5 if aligned else 0) for corner in corners)
        for p in range(bins[0]):
            for q in range(bins[1]):
                ys = sample_points(y1, y2, bins[0], p, ratio, aligned)
                xs = sample_points(x1, x2, bins[1], q, ratio, aligned)
                for weights in (
                    torch.outer(tent(y, features.shape[2]), tent(x, features.shape[3])) for y in ys for x in xs
                ):
                    pooled[k, :, p, q] += (features[int(image)] * weights).sum(dim=(1, 2)) / (len(ys) * len(xs))
    return pooled


def sample_points(low: float, high: float, bins: int, which: int, ratio: int, aligned: bool) -> list[float]:
    extent = high - low if aligned else max(high - low, 1)
    count = ratio if ratio > 0 else math.ceil(extent / bins)
    return [low + extent / bins * (which + (i + 0.5) / count) for i in range(count)]


def tent(at: float, cells: int) -> Tensor:
    """How much of each cell (cells,) is in a sample: nothing beyond one cell outside the map."""
    if not -1 <= at <= cells:
        return torch.zeros(cells, dtype=torch.float64)
    at = min(max(at, 0), cells - 1)
    return (1 - (torch.arange(cells, dtype=torch.float64) - at).abs()).clamp(min=0)


def features_and_rois() -> tuple[Tensor, Tensor]:
    """Maps (2, 3, 7, 9) and regions (9, 5) inside, across every rim, outside, without extent and turned around."""
    features = torch.randn(2, 3, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rois = [
        [0, 1.2, 0.7, 7.9, 6.1],
        [1, 3.0, 2.0, 5.0, 4.0],
        [0, -6.0, -5.0, 4.0, 3.0],
        [1, 9.0, 8.0, 25.0, 19.0],
        [0, -1.0, -1.0, 9.0, 7.0],
        [1, 60.0, 50.0, 70.0, 80.0],
        [1, 2.5, 2.5, 2.5, 2.5],
        [0, 4.0, 1.0, 4.0, 6.0],
        [0, 6.0, 5.0, 2.0, 3.0],
    ]
    return features, torch.tensor(rois, dtype=torch.float64)


# Halves and quarters are exact: samples that lie on the very edge of the rim do so in both computations.
@pytest.mark.parametrize("bins", [(2, 2), (4, 2), (1, 1)])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("ratio", [-1, 0, 1, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_is_the_slow_one(bins: tuple[int, int], scale: float, ratio: int, aligned: bool) -> None:
    features, rois = features_and_rois()

    pooled = roi_align(features, rois, scale, *bins, ratio, aligned)

    assert pooled.is_contiguous()
    torch.testing.assert_close(pooled, slow_roi_align(features, rois, scale, bins, ratio, aligned))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_roi_align_keeps_the_precision_of_its_input(dtype: torch.dtype) -> None:
    features, rois = (tensor.to(dtype) for tensor in features_and_rois())
    exact = slow_roi_align(features.double(), rois.double(), 1.0, (2, 3), 2, True)

    pooled = roi_align(features, rois, 1.0, 2, 3, 2, True)

    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled, exact.to(dtype))


@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_has_the_right_gradient(ratio: int, aligned: bool) -> None:
    features, rois = features_and_rois()

    assert torch.autograd.gradcheck(
        lambda maps: roi_align(maps, rois, 1.0, 2, 2, ratio, aligned), features[:, :1].clone().requires_grad_()
    )


@pytest.mark.parametrize("ratio", [-1, 2])
def test_roi_align_of_no_regions(ratio: int) -> None:
    features = torch.randn(2, 3, 7, 9, requires_grad=True)

    pooled = roi_align(features, torch.empty(0, 5), 1.0, 4, 5, ratio, False)
    pooled.sum().backward()  # type: ignore[no-untyped-call]

    assert pooled.shape == (0, 3, 4, 5)
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize("image", [-1, 2])
def test_roi_align_refuses_an_image_that_is_not_there(image: int) -> None:
    with pytest.raises(RuntimeError, match="range"):
        roi_align(torch.zeros(2, 3, 7, 9), torch.tensor([[image, 1.0, 1, 3, 3]]), 1.0, 2, 2, 2, False)


def test_roi_align_of_a_region_that_is_not_a_number_is_zero() -> None:
    rois = torch.tensor([[0, math.nan, 1, 3, 3]])

    assert not roi_align(torch.ones(1, 3, 7, 9), rois, 1.0, 2, 2, 2, False).any()
