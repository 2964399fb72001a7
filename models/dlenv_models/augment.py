"""Random affine changes of whole batches of images, on the device where they are."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

# Small enough that a digit stays that digit: a 6 that is turned by 90 degrees is none.
ROTATION = math.radians(12)
SCALE = 0.12  # up to 12 % larger or smaller
SHIFT = 0.09  # of the image's width and height: 2.5 of 28 pixels
SHEAR = 0.2


def affine(images: torch.Tensor, random: torch.Generator, share: tuple[int, int, int] = (0, 1, 0)) -> torch.Tensor:
    """Each image of float32 (N, C, H, W) turned, scaled, shifted and sheared by its own random amounts.

    What comes in from outside is 0 (black), so this belongs before the normalisation. ``random`` is a generator on
    the CPU: the same seed gives the same changes on every device. ``share`` (first, step, total) says that
    ``images`` are those at ``first, first + step, ...`` of a batch of ``total`` whose others are elsewhere: they are
    changed as they would be in the whole batch.

    Source: d2l 14.1, "Image Augmentation"; the transform is Simard et al., "Best Practices for Convolutional Neural
    Networks Applied to Visual Document Analysis" (2003), without its elastic part.
    """
    first, step, total = share
    amounts = torch.rand(6, total or len(images), generator=random)[:, first::step] * 2 - 1
    if not len(images):  # drawn for all the same, so that the next batch is, too; a grid of none can't be had
        return images
    angle, shear = amounts[0] * ROTATION, amounts[1] * SHEAR
    width, height = 1 + amounts[2] * SCALE, 1 + amounts[3] * SCALE
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * width, (shear * cos - sin) * height, amounts[4] * 2 * SHIFT], dim=1),
        torch.stack([sin * width, (shear * sin + cos) * height, amounts[5] * 2 * SHIFT], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.device), align_corners=False)
