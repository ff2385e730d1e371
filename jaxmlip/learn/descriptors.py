"""Descriptors of structures: the functions of a linear ACE model with random weights, of every atom."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from jaxmlip.compilation import Compiled
from jaxmlip.data import Dataset, Loader
from jaxmlip.elements import SYMBOLS
from jaxmlip.errors import UserError
from jaxmlip.io import Record
from jaxmlip.models.linear import LinearACE, LinearACEConfig


def descriptor_model(elements: Sequence[int], *, cutoff: float = 5.0, channels: int = 8, seed: int = 0) -> LinearACE:
    """A small linear ACE basis for descriptors: 2- to 5-body functions, the more the more `channels`."""
    config = LinearACEConfig(tuple(elements), cutoff=cutoff, radial=6, channels=channels, roots=8)
    return LinearACE(config, key=jax.random.key(seed))


def environments(
    records: Sequence[Record], model: LinearACE, *, progress: Callable[[int, int], None] | None = None
) -> list[np.ndarray]:
    """The functions of the atoms of every frame [atoms functions], in float64; for several elements those of each
    element of the center stand beside each other.

    **Raises:** `UserError` where the model does not know an element, or the functions are not finite.
    """
    if not records:
        return []
    known = model.config.elements
    for record in records:
        strangers = sorted(set(record.numbers.tolist()) - set(known))
        if strangers:
            names = ", ".join(SYMBOLS[n] for n in strangers)
            raise UserError(f"{record.where}: the descriptors do not know {names}.")
    bare = Dataset([Record(r.positions, r.numbers, r.cell, r.pbc) for r in records])
    loader = Loader(bare, model.cutoff, batch_atoms=1, references={}, dtype=np.float32, max_shapes=2)
    found: list[np.ndarray] = [np.empty(0)] * len(records)
    for done, i in enumerate(loader.plan(0), start=1):
        index = int(i[0])
        values = np.asarray(_basis(model, loader.pack(i).graph), np.float64).T[: len(records[index])]
        if not np.all(np.isfinite(values)):
            raise UserError(f"{records[index].where}: its descriptors are not finite. Do atoms overlap?")
        here = records[index].numbers[:, None] == np.asarray(known)
        found[index] = (values[:, None, :] * here[:, :, None]).reshape(len(values), -1)
        if progress is not None:
            progress(done, len(records))
    return found


def frame_means(rows: Sequence[np.ndarray]) -> Float[np.ndarray, "frames functions"]:
    """The mean over the atoms of each frame."""
    return np.array([x.mean(axis=0) for x in rows])


_basis = Compiled(LinearACE.basis)
