"""Kernels of our own, in Triton, for what PyTorch does in many passes over memory.

Tillet et al., *Triton: an intermediate language and compiler for tiled neural network computations*, MAPL 2019.
PyTorch for CUDA brings Triton along; the modules beside this one import it, so ask `usable` first.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from mmearth_data import InputError

if TYPE_CHECKING:
    from torch import Tensor

OLDEST = (8, 0)
"""Compute capability (Ampere) from which on Triton supports what the kernels do."""
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def runs_on(device: torch.device) -> bool:
    """Whether kernels run on a device: an NVIDIA GPU since Ampere, where Triton is; any device in its interpreter."""
    return _installed() and (os.environ.get("TRITON_INTERPRET") == "1" or _compiles_for(device))


def check_engine(engine: str, device: torch.device) -> None:
    """Refuse an engine that a device cannot run.

    Raises
    ------
    InputError
        When ``fused`` is requested and the kernels do not run there.
    """
    if engine == "fused" and not runs_on(device):
        raise InputError(
            f"engine (--engine) fused: expected an NVIDIA GPU since Ampere, Triton and a C compiler, got {device}; use "
            "auto."
        )


def usable(x: Tensor) -> bool:
    """Whether kernels take a tensor: of such a device and type, and not what torch.compile makes kernels of itself."""
    return x.dtype in TYPES and not torch.compiler.is_compiling() and runs_on(x.device)


@cache
def _compiles_for(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.cuda is None or torch.cuda.get_device_capability(device) < OLDEST:
        return False
    # Triton builds a part of its launcher at the first launch.
    return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
