"""Multiple time steps: forces that change fast at every small step, slow and expensive ones at every large step."""

from typing import Any

import equinox as eqx
from jax import lax
from jaxtyping import Array, Float

from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.neighbors import Neighbors
from jaxmlip.simulate.constraints import project
from jaxmlip.simulate.integrator import AbstractIntegrator
from jaxmlip.simulate.nve import kick
from jaxmlip.simulate.state import State, evaluate, replace
from jaxmlip.system import System


class Split(AbstractEnergy):
    """The sum of two energies, `fast` and `slow`, that `Respa` treats apart; any other integrator sees their sum."""

    fast: AbstractEnergy
    slow: AbstractEnergy

    @property
    def cutoff(self) -> float:
        return (self.fast + self.slow).cutoff

    @property
    def elements(self) -> tuple[int, ...] | None:
        return (self.fast + self.slow).elements

    def __call__(self, graph) -> Float[Array, "atoms"]:
        return self.fast(graph) + self.slow(graph)


class Respa(AbstractIntegrator):
    r"""Reversible multiple time steps (r-RESPA).

    `substeps` steps of `inner` under the fast energy stand between two kicks of half the large step by the slow one.

    The energy is a `Split`; `inner` any integrator that moves atoms by forces alone (`NVE`, `Langevin`, `NoseHoover`),
    with the small time step; `timestep` is the large one. More than two classes nest:
    `Respa(Respa(NVE(dt), 2), 4)` with `Split(Split(bonds, pairs), model)`. One large step costs one evaluation of the
    slow energy and `substeps + 1` of the fast one. Symplectic and of second order, conserving as long as the large step
    stays clear of half the period of the fastest motion (resonance), below a quarter in practice. The fast energy runs
    on the neighbor list of both.

    **Reference:** Tuckerman, Berne & Martyna, J. Chem. Phys. 97, 1990 (1992), doi:10.1063/1.463137; resonance: Ma,
    Izaguirre & Skeel, SIAM J. Sci. Comput. 24, 1951 (2003), doi:10.1137/S1064827501399833.
    """

    inner: AbstractIntegrator
    substeps: int = eqx.field(static=True)

    def __check_init__(self):
        if self.substeps < 1:
            raise ValueError(f"`substeps` must be at least 1; got {self.substeps}.")
        if not self.inner.obeys_constraints:
            raise ValueError(
                f"`inner` must move atoms by forces alone, as NVE, Langevin, NoseHoover; {type(self.inner).__name__} "
                "does not, or would see the pressure of the fast energy only."
            )

    @property
    def timestep(self) -> Float[Array, ""]:
        return self.substeps * self.inner.timestep

    @property
    def obeys_constraints(self) -> bool:
        return True

    def step(self, energy: AbstractEnergy, state: State) -> State:
        if not isinstance(energy, Split):
            raise TypeError(f"Respa needs to know what is slow: give `Split(fast, slow)`; got {type(energy).__name__}.")
        dt = self.timestep.astype(state.momenta.dtype)
        value, fast = evaluate(energy.fast, state.system, state.neighbors)
        momenta = project(state.system, kick(state.momenta, state.forces - fast, 0.5 * dt))
        state = replace(self._inside(state), momenta=momenta, energy=value, forces=fast)
        after = lax.fori_loop(0, self.substeps, lambda _, s: self.inner.step(energy.fast, s), state)
        value, slow = evaluate(energy.slow, after.system, after.neighbors)
        return replace(
            after,
            momenta=project(after.system, kick(after.momenta, slow, 0.5 * dt)),
            energy=after.energy + value,
            forces=after.forces + slow,
            step=after.step // self.substeps,
        )

    def conserved(self, state: State) -> Float[Array, ""]:
        return self.inner.conserved(self._inside(state))

    def degrees_of_freedom(self, system: System) -> int:
        return self.inner.degrees_of_freedom(system)

    def bath(self, energy: AbstractEnergy, system: System, neighbors: Neighbors) -> Any:
        return self.inner.bath(energy, system, neighbors)

    def start_temperature(self) -> Float[Array, ""] | None:
        return self.inner.start_temperature()

    def _inside(self, state: State) -> State:
        """The state with the steps of `inner` counted, by which schedules know the time."""
        return replace(state, step=state.step * self.substeps)
