"""Parameters of a network in groups with their own learning rate and weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmearth_model.network.encoder import Classifier

if TYPE_CHECKING:
    from mmearth_model.heads.paper_unet import PaperUNet
    from mmearth_model.heads.unet import UNet
    from mmearth_model.network.encoder import ConvNeXtV2


def layer_of(name: str, encoder: ConvNeXtV2) -> int:
    """Depth of a network's parameter: 0 for the stem, one more for each block, and the largest for the head."""
    last = sum(encoder.depths) + 1
    parts = name.split(".")
    if parts[0] != "encoder":
        return last
    if parts[1] == "stem":
        return 0
    stage = int(parts[2]) + (1 if parts[1] == "downsample" else 0)
    before = sum(encoder.depths[:stage])
    return before + 1 + (int(parts[3]) if parts[1] == "stages" else 0)


def released_layer_of(name: str, encoder: ConvNeXtV2) -> int:
    """Depth of a network's parameter as the released code counts it; see `mmearth_model.evaluation.paper`."""
    parts = name.split(".")
    if parts[0] != "encoder" or parts[1] == "stem":
        return sum(encoder.depths) + 1
    block = int(parts[3]) if parts[1] == "stages" else 0
    return sum(encoder.depths[: int(parts[2])]) + block + 1


def parameter_groups(
    model: Classifier | UNet | PaperUNet,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float,
    frozen: bool,
    released: bool = False,
) -> list[dict[str, object]]:
    """Optimiser groups, one per parameter: lower rates for layers further below the head, no decay of vectors.

    ``lr`` is the rate of the head, ``layer_decay`` the ratio of the rate of a layer to that of the next one. A ``frozen``
    encoder is not trained. ``released`` counts layers as the released code does, which does not train the LayerNorm of a
    frozen encoder's classifier either.
    """
    last = sum(model.encoder.depths) + 1
    head_only = released and isinstance(model, Classifier)
    groups: list[dict[str, object]] = []
    for name, parameter in model.named_parameters():
        still = frozen and not name.startswith("head.") and (head_only or name.startswith("encoder."))
        parameter.requires_grad_(not still)
        if not still:
            layer = (released_layer_of if released else layer_of)(name, model.encoder)
            scale = layer_decay ** (last - layer)
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.append({"params": [parameter], "lr": lr * scale, "scale": scale, "weight_decay": decay})
    return groups
