"""The strokes of a real digit: an image thinned to lines, and the lines followed, as a hand would draw it again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Point = tuple[float, float]


def strokes(image: npt.NDArray[np.uint8], ink: int = 100) -> list[list[Point]]:
    """Lines of points (x, y), in pixels of the image, along the middle of everything brighter than ``ink``."""
    left = {(int(x), int(y)) for y, x in np.argwhere(_thin(image > ink))}
    lines = []
    while left:
        # An end of a line if there is one; a ring has none.
        here = min(left, key=lambda point: (len(_near(point, left)), point))
        line = [here]
        left.discard(here)
        while near := _near(line[-1], left):
            # Straight neighbours before diagonal ones, so that corners are not cut.
            x, y = line[-1]
            line.append(min(near, key=lambda point: abs(point[0] - x) + abs(point[1] - y)))
            left.discard(line[-1])
        if len(line) > 1 or not lines:
            lines.append([(x + 0.5, y + 0.5) for x, y in [*line[:-1:2], line[-1]]])
    return lines


def _near(point: tuple[int, int], among: set[tuple[int, int]]) -> list[tuple[int, int]]:
    x, y = point
    around = [(x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
    return [each for each in around if each in among]


def _thin(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """T. Y. Zhang and C. Y. Suen, A fast parallel algorithm for thinning digital patterns (1984)."""
    grid = np.pad(mask, 1).astype(np.uint8)
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            ring = _ring(grid)
            count = sum(ring)
            turns = sum((ring[i] == 0) & (ring[(i + 1) % 8] == 1) for i in range(8))
            up, right, down, left = ring[0], ring[2], ring[4], ring[6]
            if first:
                sides = (up * right * down == 0) & (right * down * left == 0)
            else:
                sides = (up * right * left == 0) & (up * down * left == 0)
            gone = (grid == 1) & (count >= 2) & (count <= 6) & (turns == 1) & sides
            if gone.any():
                grid[gone] = 0
                changed = True
    return grid[1:-1, 1:-1] == 1


def _ring(grid: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    """The eight neighbours of every point, clockwise from the one above."""
    steps = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
    return [np.roll(grid, (-dy, -dx), (0, 1)) for dy, dx in steps]
