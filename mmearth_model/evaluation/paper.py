"""Downstream training as in the paper's released code: learning rates, decay, heads and smoothed labels.

Nedungadi et al., *MMEarth*, ECCV 2024, arXiv 2405.02771. The facts come from its released fine-tuning program and the
job scripts distributed with it, which are based on those of ConvNeXt V2 (Woo et al., CVPR 2023). `PAPER` and the
related recipes in `mmearth_model.evaluation.finetune` combine them; its UNet is in `mmearth_model.heads.paper_unet`.

As in the released code:

- AdamW (0.9, 0.999), no warm-up, no clipping, float32; the rate is set before each optimiser step to
  ``min_lr + (lr - min_lr) (1 + cos(pi t / epochs)) / 2``, where t counts epochs in batches. The rate in the job scripts
  is 2e-4 per 256 samples of a step (whole images) and 1e-2 (per pixel).
- Weight decay applies to matrices only: vectors, biases and GRN's parameters have none.
- Layer decay 0.9 counts stages and their blocks; the stem, the final LayerNorm and the head have factor 1. The
  convolution between two stages counts as the first block of the finer one, one stage before its own, because the
  modified stem is no longer the first of those layers and the counting was not adapted.
- Incomplete batches and accumulations are left out; the samples of each epoch are in a new order.
- No augmentation. The scripts specify random erasing and an augmentation policy, and set mixup and cutmix to 0; the
  program uses none of these and passes the images on unchanged.
- The last epoch is tested. Stochastic depth is active in a frozen encoder too, because the whole model is in training
  mode.
- Labels are smoothed by 0.2: a class keeps 0.8 and all K share 0.2; for a multi-label task, 1 becomes 0.8 and 0 becomes
  0.2.

Different here:

- Samples are normalised as specified by their task file; images are cropped to whole patches; sample orders and random
  numbers are seeded.
- Quantities are trained by squared error on standardised values, which the released code does not do on GEO-Bench.
- Pixels without a label are left out of the loss.
- A training set of fewer than 1,024 samples uses the settings for few samples, because the released ones would not take
  a single step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from mmearth_model.heads.paper_unet import TRUNCATED_AT

if TYPE_CHECKING:
    from torch import Tensor

    from mmearth_model.network.backbone import Backbone


def thawed_group(encoder: Backbone, lr: float) -> dict[str, object]:
    """Unfreeze an encoder: one parameter group at the full learning rate, without decay."""
    encoder.requires_grad_(True)
    return {"params": list(encoder.parameters()), "lr": lr, "scale": 1.0, "weight_decay": 0.0}


def start_head(head: nn.Module, std: float) -> None:
    """Initialise a head with weights of small deviation and zero biases, so that its first outputs are nearly equal."""
    for name, parameter in head.named_parameters():
        if name == "bias":
            nn.init.zeros_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=std, a=-TRUNCATED_AT, b=TRUNCATED_AT)


def smoothed(labels: Tensor, smoothing: float) -> Tensor:
    """Move labels of 0 and 1 towards each other, each by ``smoothing``."""
    return labels * (1 - smoothing) + (1 - labels) * smoothing
