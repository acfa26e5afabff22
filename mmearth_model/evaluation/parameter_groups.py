"""Parameters of a network in groups with their own learning rate and weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmearth_model.network.encoder import Classifier

if TYPE_CHECKING:
    from mmearth_model.heads.paper_unet import PaperUNet
    from mmearth_model.heads.unet import UNet


def parameter_groups(
    model: Classifier[Any] | UNet | PaperUNet,
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
    encoder = model.encoder
    last = encoder.layers + 1
    count = encoder.released_layer_of if released else encoder.layer_of
    head_only = released and isinstance(model, Classifier)
    groups: list[dict[str, object]] = []
    for name, parameter in model.named_parameters():
        still = frozen and not name.startswith("head.") and (head_only or name.startswith("encoder."))
        parameter.requires_grad_(not still)
        if not still:
            part, _, inner = name.partition(".")
            scale = layer_decay ** (last - (count(inner) if part == "encoder" else last))
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.append({"params": [parameter], "lr": lr * scale, "scale": scale, "weight_decay": decay})
    return groups
