"""What a generator makes, for the eye: held-out images beside it, and a chair that turns.

Both are made behind each epoch, at the edge, of what the cloud's head makes of their poses.
"""

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from common.datasets.images import Images
from common.datasets.poses import PoseSet, Views
from common.training.edge_tail import EdgeTail
from common.training.loop import Path
from common.training.recorder import Recorder

FOLDER = "samples"


class Samples:
    """Shows held-out images over what is generated of their poses, and the first of their chairs from all around.

    Args:
        data: whose held-out images are shown.
        count: how many images, and views of the chair that turns.
        most: samples that a batch may have.
    """

    def __init__(self, data: PoseSet, count: int, most: int) -> None:
        ids = np.linspace(0, len(data.test.views) - 1, min(count, len(data.test.views))).astype(np.int64)
        self._targets = np.asarray(data.test.labels[ids])
        views = data.test.views[ids]
        theta = np.arange(count) * 360.0 / count
        turning = Views(np.full(count, views.numbers[0]), theta, np.full(count, views.phi[0]))
        self._most, self._poses, self._turning = most, views.poses, turning.poses

    def __call__(self, path: Path, epoch: int, recorder: Recorder) -> None:
        """Make both, and put them into TensorBoard and into ``samples/epoch_NNN.png`` and ``turn_NNN.png``."""
        grid = np.concatenate([_row(self._targets), _row(_generated(path, self._poses, epoch, self._most))])
        turn = _row(_generated(path, self._turning, epoch, self._most))
        folder = recorder.folder / FOLDER
        folder.mkdir(exist_ok=True)
        for name, picture in (("epoch", grid), ("turn", turn)):
            Image.fromarray(picture).save(folder / f"{name}_{epoch + 1:03d}.png")
            recorder.picture(f"{FOLDER}/{name}", picture, epoch)


def _generated(path: Path, poses: npt.NDArray[np.float32], epoch: int, most: int) -> npt.NDArray[np.float32]:
    """float32 (B, 3, S, S): what the model makes of poses now."""
    half = path.head
    if not isinstance(half, EdgeTail):
        raise TypeError("samples are made by a tail at the edge")
    made: list[Tensor] = []
    for number, first in enumerate(range(0, len(poses), most)):
        part = torch.from_numpy(poses[first : first + most])
        nothing, ids = torch.zeros(len(part)), torch.arange(len(part))
        path.carrier.submit(half.forward(number, epoch, (part,), nothing, ids, training=False))
        made.append(half.outputs(path.carrier.collect()).cpu())
    return torch.cat(made).numpy()


def _row(images: npt.NDArray[np.float32]) -> Images:
    """Images (B, 3, S, S) of 0 to 1 side by side: uint8 (S, B S, 3)."""
    pixels: Images = np.round(255 * images.clip(0, 1)).astype(np.uint8).transpose(2, 0, 3, 1)
    side, count, _, channels = pixels.shape
    return np.reshape(pixels, (side, count * side, channels))
