from __future__ import annotations

import numpy as np
import pytest
import torch

from mmearth_data import InputError
from mmearth_model.network.masking import patchify, random_mask, unpatchify, upsample_mask, visible_patches


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_paper_shows_19_of_49_patches() -> None:
    mask = random_mask(200, 49, 0.6, seeded())
    assert mask.dtype == torch.bool
    assert mask.shape == (200, 49)
    assert set((~mask).sum(dim=1).tolist()) == {19}


@pytest.mark.parametrize(("patches", "ratio", "visible"), [(49, 0.0, 49), (49, 0.9, 4), (196, 0.75, 49), (64, 0.5, 32)])
def test_the_number_of_visible_patches_is_rounded_down(patches: int, ratio: float, visible: int) -> None:
    assert visible_patches(patches, ratio) == visible
    assert (~random_mask(3, patches, ratio)).sum(dim=1).tolist() == [visible] * 3


def test_every_patch_is_hidden_equally_often() -> None:
    share = random_mask(4000, 49, 0.6, seeded()).double().mean(dim=0)
    # 30/49 are hidden; the standard error over 4,000 masks is 0.0077.
    assert torch.allclose(share, torch.full((49,), 30 / 49, dtype=torch.float64), atol=5 * 0.0077)


def test_samples_are_masked_each_for_itself_and_by_the_seed_alone() -> None:
    mask = random_mask(64, 49, 0.6, seeded(1))
    assert torch.equal(mask, random_mask(64, 49, 0.6, seeded(1)))
    assert not torch.equal(mask, random_mask(64, 49, 0.6, seeded(2)))
    assert len({tuple(row.tolist()) for row in mask}) == 64


@pytest.mark.parametrize("ratio", [1.0, -0.1, 0.99, float("nan")])
def test_a_ratio_that_leaves_nothing_to_see_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match=r"mask ratio in \[0, 1\)"):
        random_mask(2, 49, ratio)


@pytest.mark.parametrize(("rows", "columns", "channels", "patch"), [(2, 3, 5, 4), (1, 1, 1, 8), (3, 2, 2, 1)])
def test_patches_hold_values_by_row_column_channel(rows: int, columns: int, channels: int, patch: int) -> None:
    images = torch.rand(2, channels, rows * patch, columns * patch)
    patches = patchify(images, patch)
    assert patches.shape == (2, rows * columns, patch * patch * channels)
    for b, c, y, x in np.ndindex(*images.shape):
        patch_index = (y // patch) * columns + x // patch
        value_index = ((y % patch) * patch + x % patch) * channels + c
        assert patches[b, patch_index, value_index] == images[b, c, y, x]
    assert torch.equal(unpatchify(patches, patch, (rows, columns)), images)


def test_a_square_of_patches_needs_no_grid() -> None:
    images = torch.arange(2 * 3 * 24 * 24).reshape(2, 3, 24, 24)
    assert torch.equal(unpatchify(patchify(images, 8), 8), images)


def test_sides_that_patches_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="8 px patches divide, got 56 x 60"):
        patchify(torch.zeros(1, 1, 56, 60), 8)
    with pytest.raises(InputError, match="got 6; give grid"):
        unpatchify(torch.zeros(1, 6, 64), 8)


def test_a_mask_of_patches_covers_their_pixels() -> None:
    mask = torch.rand(3, 6, generator=seeded()) < 0.5
    expected = np.kron(mask.reshape(3, 2, 3).numpy(), np.ones((4, 4), dtype=bool))
    assert np.array_equal(upsample_mask(mask, (2, 3), 4).numpy(), expected)
