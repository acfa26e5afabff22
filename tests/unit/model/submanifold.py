"""Submanifold sparse ConvNeXt V2, written from its definition over dictionaries: slow, and with nothing to get wrong.

A sparse image is a dictionary (row, column) -> vector. A convolution that keeps the resolution has outputs where it
has inputs, and sums over those neighbours that exist; one with stride = kernel has an output in every cell in which
something exists. Float64 throughout.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from mmearth_model.network.encoder import Block, ConvNeXtV2, Convolution, Downsample, ModifiedStem

Vector = np.ndarray[Any, np.dtype[np.float64]]
Sparse = dict[tuple[int, int], Vector]

erf = np.vectorize(math.erf)


def array(parameter: Any) -> Vector:
    return np.asarray(parameter.detach().numpy(), dtype=np.float64)


def tap(weight: Vector, row: int, column: int, value: Vector) -> Vector:
    """One kernel position's contribution; depthwise weights are (C, 1, k, k), others (out, in, k, k)."""
    kernel = weight[:, :, row, column]
    depthwise = weight.shape[1] == 1 and weight.shape[0] == len(value)
    return kernel[:, 0] * value if depthwise else kernel @ value


def same(layer: Convolution, x: Sparse) -> Sparse:
    weight, bias = array(layer.weight), array(layer.bias)
    size = weight.shape[-1]
    out = {}
    for row, column in x:
        total = bias.copy()
        for i in range(size):
            for j in range(size):
                neighbour = (row + i - size // 2, column + j - size // 2)
                if neighbour in x:
                    total += tap(weight, i, j, x[neighbour])
        out[row, column] = total
    return out


def strided(layer: Convolution, x: Sparse) -> Sparse:
    weight, bias = array(layer.weight), array(layer.bias)
    size = weight.shape[-1]
    out: Sparse = defaultdict(lambda: bias.copy())
    for (row, column), value in x.items():
        cell = (row // size, column // size)
        out[cell] = out[cell] + tap(weight, row % size, column % size, value)
    return dict(out)


def everywhere(function: Callable[[Vector], Vector], x: Sparse) -> Sparse:
    return {place: function(value) for place, value in x.items()}


def norm(layer: Any) -> Callable[[Vector], Vector]:
    weight, bias = array(layer.weight), array(layer.bias)
    return lambda v: (v - v.mean()) / np.sqrt(v.var() + 1e-6) * weight + bias


def linear(layer: Any) -> Callable[[Vector], Vector]:
    weight, bias = array(layer.weight), array(layer.bias)
    return lambda v: weight @ v + bias


def gelu(v: Vector) -> Vector:
    return 0.5 * v * (1 + erf(v / math.sqrt(2)))


def grn(block: Block, samples: list[Sparse]) -> list[Sparse]:
    """Norms over the positions of each sample, or of all."""
    gamma, beta = array(block.grn.gamma), array(block.grn.beta)
    pooled = block.grn.over == "batch"
    out = []
    for sample in samples:
        counted = [v for s in (samples if pooled else [sample]) for v in s.values()]
        length = np.sqrt(np.sum([v**2 for v in counted], axis=0)) if counted else np.zeros(len(gamma))
        response = length / (length.mean() + block.grn.eps)
        out.append({place: gamma * (v * response) + beta + v for place, v in sample.items()})
    return out


def residual_block(block: Block, samples: list[Sparse]) -> list[Sparse]:
    wide = [
        everywhere(lambda v: gelu(linear(block.pwconv1)(norm(block.norm)(v))), same(block.dwconv, sample))
        for sample in samples
    ]
    branches = [everywhere(linear(block.pwconv2), sample) for sample in grn(block, wide)]
    return [{place: v + branch[place] for place, v in x.items()} for x, branch in zip(samples, branches, strict=True)]


def stem(layer: Any, x: Sparse) -> Sparse:
    if isinstance(layer, ModifiedStem):
        x = everywhere(lambda v: gelu(norm(layer.norm)(v)), same(layer.conv, x))
        return everywhere(norm(layer.dwnorm), strided(layer.dwconv, x))
    return everywhere(norm(layer.norm), strided(layer.conv, x))


def downsample(layer: Downsample, x: Sparse) -> Sparse:
    return strided(layer.conv, everywhere(norm(layer.norm), x))


def encode(encoder: ConvNeXtV2, images: Vector, exists: np.ndarray[Any, Any]) -> list[list[Sparse]]:
    """Features of every stage and sample; images (B, C, H, W), exists (B, H, W) bool."""
    samples = [
        {(int(y), int(x)): image[:, y, x].astype(np.float64) for y, x in np.argwhere(there)}
        for image, there in zip(images, exists, strict=True)
    ]
    samples = [stem(encoder.stem, sample) for sample in samples]
    stages = []
    for index, blocks in enumerate(encoder.stages):
        if index:
            samples = [downsample(encoder.downsample[index - 1], sample) for sample in samples]  # type: ignore[arg-type]
        for block in blocks:  # type: ignore[attr-defined]
            samples = residual_block(block, samples)
        stages.append(samples)
    return stages
