"""Which patches the encoder sees, and the order of values within a patch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmearth_data import InputError

if TYPE_CHECKING:
    from torch import Tensor


def visible_patches(patches: int, ratio: float) -> int:
    """Patches that the encoder sees: ``int(patches * (1 - ratio))``, e.g. 19 of 49 at 0.6.

    Raises `InputError` if no patch would be visible, or ``ratio`` is outside [0, 1).
    """
    if not 0 <= ratio < 1 or int(patches * (1 - ratio)) < 1:
        raise InputError(
            f"expected a mask ratio in [0, 1) that leaves at least one of {patches} patches visible, got {ratio}; "
            "the paper's is 0.6."
        )
    return int(patches * (1 - ratio))


def random_mask(
    batch: int,
    patches: int,
    ratio: float,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Hide patches at random, equally many in every sample: (batch, patches) bool, True where hidden, in row order.

    ``int(patches * (1 - ratio))`` of each row are visible. The random numbers are those of ``generator``, on any device, or of
    torch's default one; ``device`` is that of the result, by default the generator's, else the CPU.
    """
    keep = visible_patches(patches, ratio)
    source = generator.device if generator is not None else (device or "cpu")
    order_BL = torch.rand(batch, patches, generator=generator, device=source).argsort(dim=1)
    hidden_BL = torch.ones(batch, patches, dtype=torch.bool, device=source)
    hidden_BL.scatter_(1, order_BL[:, :keep], value=False)
    return hidden_BL if device is None else hidden_BL.to(device, non_blocking=True)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) to (B, L, patch_size**2 * C).

    Patches are in row order; within one, the index of a value is ``(row * patch_size + column) * C + channel``.
    """
    B, C, H, W = images.shape
    h, w = H // patch_size, W // patch_size
    if (h * patch_size, w * patch_size) != (H, W):
        raise InputError(f"expected sides that {patch_size} px patches divide, got {H} x {W}; crop the tiles.")
    blocks = images.reshape(B, C, h, patch_size, w, patch_size)
    return blocks.permute(0, 2, 4, 3, 5, 1).reshape(B, h * w, patch_size**2 * C)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int] | None = None) -> Tensor:
    """Inverse of `patchify`; ``grid`` is (rows, columns) of patches, default a square."""
    B, L, D = patches.shape
    h, w = grid or (round(L**0.5), round(L**0.5))
    if h * w != L:
        raise InputError(f"expected {h} x {w} patches, got {L}; give grid=(rows, columns).")
    blocks = patches.reshape(B, h, w, patch_size, patch_size, D // patch_size**2)
    return blocks.permute(0, 5, 1, 3, 2, 4).reshape(B, -1, h * patch_size, w * patch_size)


def upsample_mask(mask: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """(B, L) per patch to (B, rows * factor, columns * factor) per pixel."""
    return mask.reshape(-1, *grid).repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
