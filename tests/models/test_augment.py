from __future__ import annotations

import pytest
import torch

from dlenv_models import augment
from dlenv_models.augment import affine


def blobs(count: int) -> torch.Tensor:
    images = torch.zeros(count, 1, 28, 28)
    images[:, :, 10:18, 12:16] = 255
    return images


def test_each_image_changes_in_its_own_way_and_stays_an_image() -> None:
    images = blobs(64)
    changed = affine(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 255.001
    assert len(changed.flatten(1).unique(dim=0)) == 64
    # 25 % of area is the most that 12 % of scale in both directions makes; nothing is lost at the border.
    area = changed.sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert float(area.min()) > 0.75
    assert float(area.max()) < 1.35


def test_the_seed_decides() -> None:
    first, second = (affine(blobs(4), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


def test_no_change_where_the_amounts_are_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for amount in ("ROTATION", "SCALE", "SHIFT", "SHEAR"):
        monkeypatch.setattr(augment, amount, 0.0)
    images = torch.rand(3, 3, 9, 12)
    torch.testing.assert_close(affine(images, torch.Generator()), images, atol=1e-5, rtol=0)


def test_shifts_reach_their_limit_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    for amount in ("ROTATION", "SCALE", "SHEAR"):
        monkeypatch.setattr(augment, amount, 0.0)
    changed = affine(blobs(500), torch.Generator().manual_seed(0)).squeeze(1)
    columns = (changed.sum(1) * torch.arange(28)).sum(1) / changed.sum((1, 2))
    moved = (columns - 13.5).abs()
    assert 0.9 * augment.SHIFT * 28 < float(moved.max()) <= augment.SHIFT * 28 + 0.01
