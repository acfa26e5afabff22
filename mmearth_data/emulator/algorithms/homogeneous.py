"""Checks that the images of a collection have the same bands of the same types, which reductions over it require.

The service checks this when a pixel is computed, for all bands, whichever are selected from the result; requests for
band metadata are answered regardless. Types are compared including their value ranges, which differ for two constants.
It is not documented that `mosaic` and `mode` are checked for types too; here every reduction is.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_data.emulator.algorithms.image import Image

MIXED = "Expected a homogeneous image collection, but an image with"


class Homogeneous:
    """Check of the images of one collection, made once; the first one determines what is expected."""

    def __init__(self, images: Sequence[Image]) -> None:
        self.images = images

    def required(self) -> Sequence[Image]:
        """Return the images; refuse a collection whose images differ.

        Raises `EmulatorError` with the service's message (geemap issue 1058, geedim issue 16).
        """
        if self._refusal is not None:
            raise EmulatorError(self._refusal)
        return self.images

    @cached_property
    def _refusal(self) -> str | None:
        differing = (refusal_of(self.images[0], image) for image in self.images[1:])
        return next((refusal for refusal in differing if refusal is not None), None)


def refusal_of(first: Image, image: Image) -> str | None:
    """Describe how an image differs from the first one of its collection; None if it does not."""
    if image.names != first.names:
        return (
            f"{MIXED} incompatible bands was encountered: First image type: {_listed(first)}. "
            f"Current image type: {_listed(image)}."
        )
    for expected, band in zip(first.bands, image.bands, strict=True):
        if band is not expected and band.type != expected.type:
            return (
                f"{MIXED} an incompatible band was encountered. Mismatched type for band '{band.name}':\n"
                f"Expected type: {expected.type.shown}.\n  Actual type: {band.type.shown}.\n"
                f"     Image ID: {image.properties.get('system:index', '')}\n"
                "This band might require an explicit cast."
            )
    return None


def _listed(image: Image) -> str:
    return f"{len(image.names)} bands ([{', '.join(image.names)}])"
