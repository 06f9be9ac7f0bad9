"""Simple chairs, drawn from their poses when they are asked for as ``shapes``: nothing is stored or downloaded.

A chair is some boxes. Each pixel looks along one ray (all rays are parallel) and shows the box that it meets first,
shaded by the side that it meets. Boxes and colour are a chair's own, so number, theta and phi all change the picture.

Shapes: B images, S pixels of a side, K boxes of a chair.
"""

import numpy as np
import numpy.typing as npt

from common.datasets.images import Images, Labels
from common.datasets.poses import Pixels, PoseSet, PoseSplit, Views

OBJECTS = 8
THETAS = np.arange(24) * 15.0
PHIS = np.array([10.0, 25.0, 40.0])
_HELD_OUT = 5
"""Every fifth view of a chair, after a shuffle of its own."""
_REACH = 1.35
"""Half of the side of what a picture shows; chairs are within 1 of the middle, seen from anywhere."""
_LIGHT = np.array([0.72, 0.55, 1.0])
"""Brightness of the sides that look along x, y and z."""

Floats = npt.NDArray[np.float64]


def make_shapes(image_size: int) -> PoseSet:
    """All chairs from all sides; a fifth of each one's views is held out, the same for every seed."""
    theta, phi = (each.reshape(-1) for each in np.meshgrid(THETAS, PHIS, indexing="ij"))
    train, test = [], []
    for number in range(OBJECTS):
        order = np.random.default_rng(number).permutation(len(theta))
        views = Views(np.full(len(theta), number), theta, phi)
        test.append(views[np.sort(order[::_HELD_OUT])])
        train.append(views[np.sort(np.delete(order, slice(None, None, _HELD_OUT)))])
    training, testing = (PoseSplit(views, Pixels(draw(views, image_size))) for views in map(_joined, (train, test)))
    return PoseSet("shapes", OBJECTS, training, testing)


def draw(views: Views, image_size: int) -> Images:
    """The pictures of some views on white: uint8 (B, S, S, 3)."""
    images = np.full((len(views), image_size, image_size, 3), 255, np.uint8)
    steps = (np.arange(image_size) + 0.5) / image_size * 2 - 1
    right, up = np.meshgrid(_REACH * steps, -_REACH * steps)
    for image, number, theta, phi in zip(images, views.numbers, views.theta, views.phi, strict=True):
        low, high, colour = _chair(int(number))
        depth, side = _first_met(low, high, right, up, np.radians(theta), np.radians(phi))
        met = np.isfinite(depth)
        image[met] = np.round(255 * _LIGHT[side[met], np.newaxis] * colour)
    return images


def _chair(number: int) -> tuple[Floats, Floats, Floats]:
    """Lowest and highest corners of its boxes, (K, 3) each, and its colour."""
    random = np.random.default_rng((7, number))
    half, back, legs = random.uniform(0.32, 0.55), random.uniform(0.5, 0.85), random.uniform(0.3, 0.65)
    thick, leg = random.uniform(0.06, 0.14), random.uniform(0.05, 0.12)
    boxes = [(-half, -half, 0, half, half, thick), (-half, half - thick, thick, half, half, thick + back)]
    if number % 4 == 1:  # a stool has no back
        boxes.pop()
    if number % 2:
        ends = half - leg
        boxes += [(x, y, -legs, x + leg, y + leg, 0) for x in (-half, ends) for y in (-half, ends)]
    else:  # one leg in the middle, and a foot
        boxes += [(-leg, -leg, -legs, leg, leg, 0), (-half, -leg, -legs - leg, half, leg, -legs)]
    if number % 4 == 2:  # arms
        boxes += [(x, -half, 0.3, x + thick, half, 0.3 + thick) for x in (-half, half - thick)]
    corners = np.array(boxes)
    return corners[:, :3], corners[:, 3:], random.uniform(0.15, 0.95, 3)


def _first_met(low: Floats, high: Floats, right: Floats, up: Floats, theta: float, phi: float) -> tuple[Floats, Labels]:
    """How far each ray goes until it meets a box (infinity where it meets none), and across which axis: (S, S) each."""
    towards = np.array([np.cos(phi) * np.sin(theta), -np.cos(phi) * np.cos(theta), np.sin(phi)])  # the camera
    across = np.array([np.cos(theta), np.sin(theta), 0.0])
    above = np.cross(towards, across)
    starts = 3 * towards + right[..., np.newaxis] * across + up[..., np.newaxis] * above
    along = np.where(np.abs(towards) < 1e-9, 1e-9, -towards)
    depth, side = np.full(right.shape, np.inf), np.zeros(right.shape, np.int64)
    for lowest, highest in zip(low, high, strict=True):
        one, other = (lowest - starts) / along, (highest - starts) / along
        enters, leaves = np.minimum(one, other), np.maximum(one, other)
        near = enters.max(-1)
        nearer = (near <= leaves.min(-1)) & (near < depth)
        depth[nearer], side[nearer] = near[nearer], enters.argmax(-1)[nearer]
    return depth, side


def _joined(views: list[Views]) -> Views:
    numbers, theta, phi = (
        np.concatenate([getattr(each, name) for each in views]) for name in ("numbers", "theta", "phi")
    )
    return Views(numbers, theta, phi)
