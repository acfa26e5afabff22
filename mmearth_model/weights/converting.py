"""`mmearth-train convert`: convert third-party weights to a checkpoint, and back."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmearth_data import (
    InputError,
    __version__,
    check_output,
    staged_folder,
    staged_stream,
)
from mmearth_model.weights.checkpoints import ENCODER_ONLY, Checkpoint, save_tensors, write_tensors
from mmearth_model.weights.conversion import Audience, Imported, import_weights
from mmearth_model.weights.exporting import check_audience, export
from mmearth_model.weights.normalising import normaliser_of
from mmearth_model.weights.released import SUFFIXES, Released, digest_of, fetch, find_released
from mmearth_model.weights.remote import is_url, locate
from mmearth_model.weights.store_record import where_store_is

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmearth_data import Store


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    store: Store | None = None,
    bands: Mapping[str, Sequence[str]] | None = None,
    report: Callable[[int], None] | None = None,
) -> Path:
    """Convert weights.

    Parameters
    ----------
    source
        A released checkpoint (name or file), pretrained or fine-tuned; plain ConvNeXt V2 weights with the names of its
        authors or of timm; or a checkpoint of this program, or its URL (see `mmearth_model.load_checkpoint`).
    out
        Path to write: a checkpoint folder, or with ``to`` a file (``.pth`` or ``.safetensors``; the released code reads
        ``.pth``).
    to
        Code to export for: ``finetune`` (the released fine-tuning code; encoders of every preset), ``dense`` or
        ``sparse`` (the released pretraining code; whole networks of preset reference) or ``timm``. None writes a
        checkpoint.
    store
        Store whose statistics go into the checkpoint, which can then be used on raw tiles; released files have none.
    bands
        Modality -> its bands that the weights take, in this order. None uses those of the store's catalog entries, or
        what is known about a released name.
    report
        Called with the bytes of a download.

    Returns
    -------
    Path
        The path that was written.

    Raises
    ------
    InputError
        When the source is none of these, or does not fit the request; nothing is left behind.
    """
    out, audience = Path(out), None if to is None else check_audience(to)
    if audience and (store is not None or bands):
        option = "--bands" if store is None else "--store"
        raise InputError(f"{option}: expected none with --to, which writes weights without statistics; leave it out.")
    if bands and store is None:
        raise InputError(
            "--bands: expected a store whose statistics of these bands are put in, got none; give --store."
        )
    if out.exists():
        raise InputError(f"--out: expected a new path, got {out}, which exists; choose another.")
    check_output(out, folder=audience is None)
    released = None if is_url(source) else find_released(str(source))
    found, origin = _read(source, released, report)
    seen = bands or (released.seen if released else {})
    if audience is not None:
        _export(found, out, audience)
        return out
    where = {"path": ""} if store is None else where_store_is(store, out.absolute().parent)
    config = {**_config(found, origin, store, seen), "store": where}
    with staged_folder(out) as folder:
        write_tensors(folder, found.tensors, config)
    return out


def _read(
    source: str | Path, released: Released | None, report: Callable[[int], None] | None
) -> tuple[Imported, dict[str, Any]]:
    path, origin = locate(source, report) if released is None else (fetch(released, report=report), None)
    if path.is_file() and path.suffix in SUFFIXES:
        found = import_weights(path)
        return found, {"source": str(source), "sha256": digest_of(path), "style": found.style}
    checkpoint = Checkpoint.read(path)
    own = Imported(
        encoder=checkpoint.encoder_config,
        model=None if checkpoint.encoder_only else checkpoint.model_config,
        weighting=str(checkpoint.config["loss"].get("weighting", "unweighted")),
        tensors=checkpoint.tensors(),
        style="dense",
    )
    downloaded = {} if origin is None else origin.to_dict()
    return own, {"source": str(source), **downloaded, "store": checkpoint.config["store"]}


def _config(
    found: Imported, origin: Mapping[str, Any], store: Store | None, bands: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    model = {"encoder": dataclasses.asdict(found.encoder)} if found.model is None else found.model.to_dict()
    normaliser = None if store is None else normaliser_of(store, found, bands).to_config()
    seed = found.options.get("seed")
    return {
        **({"architecture": ENCODER_ONLY} if found.model is None else {}),
        "model": model,
        "loss": {} if found.model is None else {"preset": "reference", "weighting": found.weighting},
        "normaliser": normaliser,
        "recipe": {**found.options, "seed": seed if isinstance(seed, int) else 0},
        "progress": {},
        "origin": dict(origin),
        "version": __version__,
    }


def _export(found: Imported, out: Path, to: Audience) -> None:
    """Write weights for third-party code."""
    tensors = {name: tensor.contiguous().clone() for name, tensor in export(found, to).items()}
    if out.suffix == ".safetensors":
        save_tensors(tensors, out)
        return
    options = {**found.options, "input_size": found.encoder.image_size, "patch_size": found.encoder.patch_size}
    # The pretraining code resumes from a Namespace. The fine-tuning code reads only the weights, with torch.load, which
    # refuses a Namespace by default.
    args = argparse.Namespace(**options) if to in ("sparse", "dense") else options
    with staged_stream(out) as stream:
        torch.save({"model": tensors, "args": args}, stream)
