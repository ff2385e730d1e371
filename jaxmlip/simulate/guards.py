"""Guards: what must hold after every step for a run to go on."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmlip.graph.neighbors import to_graph
from jaxmlip.observables.thermo import kinetic_energy, temperature
from jaxmlip.simulate.constraints import violation
from jaxmlip.simulate.integrator import AbstractIntegrator
from jaxmlip.simulate.state import State


class Guards(eqx.Module):
    """Limits that stop a run, checked after every step inside jit. `None` switches one off.

    - `energy_jump` [eV/atom]: change of the conserved energy in one step;
    - `max_temperature` [K]: kinetic temperature;
    - `closest_pair` [Å]: distance of any two atoms;
    - energies, forces, momenta or a cell that are not finite, and rigid bonds that could not be kept, always stop it.
    """

    energy_jump: float | None = eqx.field(static=True, default=0.5)
    max_temperature: float | None = eqx.field(static=True, default=20_000.0)
    closest_pair: float | None = eqx.field(static=True, default=0.4)

    def __check_init__(self):
        for name, unit in (("energy_jump", "eV/atom"), ("max_temperature", "K"), ("closest_pair", "Å")):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"`{name}` must be positive [{unit}], or None to switch it off; got {limit}.")

    def check(self, integrator: AbstractIntegrator, state: State, previous: Float[Array, ""]) -> Int[Array, ""]:
        """0 where all is well, else a sum of bits (`reasons` puts them in words); `previous` conserved energy [eV]."""
        atoms = len(state.system.numbers)
        total = integrator.conserved(state)
        sums = total + jnp.sum(state.forces) + jnp.sum(state.momenta) + jnp.sum(state.system.cell)
        code = jnp.where(jnp.isfinite(sums), 0, 1)
        if self.energy_jump is not None:
            code = code + jnp.where(jnp.abs(total - previous) > self.energy_jump * atoms, 2, 0)
        if self.max_temperature is not None:
            hot = temperature(state.momenta, state.system.masses, integrator.degrees_of_freedom(state.system))
            code = code + jnp.where(hot > self.max_temperature, 4, 0)
        if self.closest_pair is not None:
            closest = jnp.min(to_graph(state.neighbors, state.system).lengths(), initial=jnp.inf)
            code = code + jnp.where(closest < self.closest_pair, 8, 0)
        if state.system.constraints is not None:
            limit = jnp.sqrt(jnp.finfo(state.momenta.dtype).eps)
            code = code + jnp.where(violation(state.system) > limit, 16, 0)
        return code.astype(jnp.int32)

    def reasons(self, integrator: AbstractIntegrator, state: State, previous: float, code: int) -> str:
        """In words, with figures, why `code` stopped the run (host)."""
        atoms = len(state.system.numbers)
        found = []
        if code & 1:
            bad = np.flatnonzero(~np.isfinite(np.asarray(state.forces)).all(axis=1))[:5].tolist()
            found.append(f"energy or forces are not finite (energy {float(state.energy)} eV, atoms {bad})")
        if code & 2:
            jump = (float(integrator.conserved(state)) - previous) / atoms
            found.append(f"the conserved energy jumped by {jump:.3g} eV/atom in one step (limit {self.energy_jump})")
        if code & 4:
            kinetic = float(kinetic_energy(state.momenta, state.system.masses))
            found.append(f"the temperature exceeds {self.max_temperature} K (kinetic energy {kinetic:.4g} eV)")
        if code & 8:
            lengths = np.asarray(to_graph(state.neighbors, state.system).lengths())
            slot, center = np.unravel_index(lengths.argmin(), lengths.shape)
            other = int(np.asarray(state.neighbors.senders)[slot, center])
            found.append(f"atoms {int(center)} and {other} are {lengths.min():.3f} Å apart (limit {self.closest_pair})")
        if code & 16:
            found.append(
                f"rigid bonds are off by {float(violation(state.system)):.2g} of their length: shorten the step"
            )
        return "; ".join(found)
