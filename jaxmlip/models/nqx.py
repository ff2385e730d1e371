"""Checkpoints of the nequix package (`.nqx`: one line of JSON, then arrays) as a `NequIP`."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmlip.errors import UserError
from jaxmlip.models.nequip import Layer, NequIP, NequIPConfig, layer_shapes, paths


def load_nqx(path: str | Path) -> NequIP:
    """The model in a nequix checkpoint, in the dtype of the file (float32).

    Factors 1/sqrt(inputs), which nequix applies at run time, are multiplied into the weights, and the columns of the
    radial networks are put in our order of couplings. What follows the weights in some files (the header's numbers
    once more) is not read.

    **Raises:** `UserError` where the file is cut short, is no such checkpoint, or has an architecture we lack.
    """
    path = Path(path)
    with open(path, "rb") as file:
        try:
            header = json.loads(file.readline())
            config = _config(header)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a nequix checkpoint that can be used: {error}.") from error

        def read(*shape: int) -> np.ndarray:
            try:
                array = np.lib.format.read_array(file, allow_pickle=False)
            except ValueError as error:
                raise UserError(f"{path} is cut short or damaged ({error}): fetch it again.") from error
            if array.shape != shape or array.dtype.kind != "f":
                raise UserError(
                    f"{path} is damaged: expected floats of shape {shape}, found {array.dtype} {array.shape}."
                )
            return array

        atom_energies = read(len(config.elements))
        layers = [_read_layer(read, *shape, config) for shape in layer_shapes(config)]
        readout = read(config.channels[0], 1)[:, 0] / math.sqrt(config.channels[0])
    middle = jax.tree.map(lambda *x: np.stack(x), *layers[1:-1]) if config.layers > 2 else None
    *layers, readout, atom_energies = jax.device_put((layers[0], middle, layers[-1], readout, atom_energies))
    first, middle, last = (layer and Layer(*layer) for layer in layers)
    model = object.__new__(NequIP)  # its own constructor would draw random parameters, for half a second
    parts = {"first": first, "middle": middle, "last": last, "readout": readout, "atom_energies": atom_energies}
    for name, value in {**parts, "config": config, "block": None}.items():
        object.__setattr__(model, name, value)
    return model


def _config(header: dict[str, Any]) -> NequIPConfig:
    irreps = re.findall(r"(\d+)x(\d+)([eo])", header["hidden_irreps"])
    expected = [(str(degree), "eo"[degree % 2]) for degree in range(header["lmax"] + 1)]
    if [(degree, parity) for _, degree, parity in irreps] != expected:
        raise ValueError(
            f"hidden_irreps {header['hidden_irreps']} are not one block for each degree to {header['lmax']}"
        )
    if header["radial_polynomial_p"] != int(header["radial_polynomial_p"]):
        raise ValueError(f"radial_polynomial_p must be whole; it is {header['radial_polynomial_p']}")
    return NequIPConfig(
        elements=tuple(sorted(header["atomic_numbers"])),
        cutoff=float(header["cutoff"]),
        channels=tuple(int(count) for count, _, _ in irreps),
        layers=header["n_layers"],
        radial_basis=header["radial_basis_size"],
        radial_width=header["radial_mlp_size"],
        radial_depth=header["radial_mlp_layers"],
        envelope_power=int(header["radial_polynomial_p"]),
        average_neighbors=float(header["avg_n_neighbors"]),
        scale=float(header["scale"]),
        shift=float(header["shift"]),
        layer_norm=header["layer_norm"],
        index_weights=header["index_weights"],
    )


def _read_layer(read, inside: tuple[int, ...], out: tuple[int, ...], config: NequIPConfig) -> tuple[Any, ...]:
    """The parts of a `Layer`, in the order of its fields."""
    couplings = paths(len(inside), len(out), len(config.channels) - 1)
    gated = (out[0] + sum(out[1:]), *out[1:])
    mixed = [sum(inside[l1] for l1, _, l3 in couplings if l3 == degree) for degree in range(len(out))]
    sizes = [config.radial_basis] + [config.radial_width] * config.radial_depth

    def normalized(*shape: int) -> np.ndarray:
        # Python floats keep float32 arrays float32.
        return read(*shape) / math.sqrt(shape[-2])

    radial = [read(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    radial.append(_by_source(read(sizes[-1], sum(inside[l1] for l1, _, _ in couplings)), couplings, inside))
    up = [normalized(n, n) for n in inside]
    down = [normalized(rows, columns) for rows, columns in zip(mixed, gated, strict=True)]
    species = (len(config.elements),) if config.index_weights else ()
    skip = [normalized(*species, inside[n], gated[n]) for n in range(min(len(inside), len(out)))]
    norm = tuple(read(n) for n in gated) if config.layer_norm else None
    return tuple(radial), tuple(up), tuple(down), tuple(skip), norm


def _by_source(weights: np.ndarray, couplings: tuple[tuple[int, int, int], ...], inside: tuple[int, ...]) -> np.ndarray:
    """Columns sorted by the degree of the result, as nequix writes them, sorted by the degree of the source."""
    stored = sorted(couplings, key=lambda coupling: (coupling[2], coupling[0], coupling[1]))
    ends = np.cumsum([inside[l1] for l1, _, _ in stored])
    block = {coupling: weights[:, end - inside[coupling[0]] : end] for coupling, end in zip(stored, ends, strict=True)}
    return np.concatenate([block[coupling] for coupling in couplings], axis=1)
