"""Random crops and mirror images, a whole batch at a time.

Shapes: B images, H height, W width, C channels.
"""

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
PADDING = 4


def cropped_and_mirrored(images: Images, random: np.random.Generator) -> Images:
    """Shift each image by up to `PADDING` pixels each way, black moving in, and mirror every other one.

    Args:
        images: (B, H, W, C).
        random: drawn from: two offsets and one coin per image.

    Returns:
        New images (B, H, W, C).
    """
    count, height, width, channels = images.shape
    padded = np.zeros((count, height + 2 * PADDING, width + 2 * PADDING, channels), np.uint8)
    padded[:, PADDING:-PADDING, PADDING:-PADDING] = images
    offsets = 2 * PADDING + 1
    moves = random.integers((offsets, offsets, 2), size=(count, 3))
    out = np.empty_like(images)
    # Slices beat one fancy index: they copy rows, not pixels.
    for index, (top, left, mirror) in enumerate(moves.tolist()):
        crop = padded[index, top : top + height, left : left + width]
        out[index] = crop[:, ::-1] if mirror else crop
    return out
