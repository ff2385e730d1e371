"""Constant temperature and pressure, deterministic: Martyna-Tobias-Klein with Nosé-Hoover chains."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip import units
from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph.lattice import product
from jaxmlip.graph.neighbors import Neighbors, update
from jaxmlip.observables.thermo import kinetic_energy, kinetic_flux
from jaxmlip.simulate.chain import Chain, advance_chain, chain_at_rest, chain_energy, chain_masses, check_chain
from jaxmlip.simulate.integrator import (
    TIME,
    AbstractIntegrator,
    check_finite_target,
    check_momenta,
    check_positive,
    check_temperature,
)
from jaxmlip.simulate.schedule import Target, as_target, first, now
from jaxmlip.simulate.state import State, evaluate_virial, replace, with_cell
from jaxmlip.simulate.strain import SHAPES, check_periodic, check_shape, flow, restrict, turn_back
from jaxmlip.system import System


class Piston(eqx.Module):
    """The `rate` of strain of the cell [1/time], the `virial` [eV] where the atoms are, the chains of the atoms and of
    the cell, and the `heat` [eV] that changes of the targets have taken out."""

    rate: Float[Array, "3 3"]
    virial: Float[Array, "3 3"]
    atoms: Chain
    cell: Chain
    heat: Float[Array, ""]


class MTK(AbstractIntegrator):
    r"""Martyna-Tobias-Klein dynamics of atoms and cell, each with its Nosé-Hoover chain; zero total momentum (3N - 3).

    `timestep`, `period` of the thermostats and `barostat_period` [time unit: `0.5 * units.fs`, `100 * units.fs`,
    `1 * units.ps`]; `temperature` [K] and `pressure` [eV/Å³: `1 * units.GPa`], of which each may be a schedule.
    `shape` says what may change: the volume (`"isotropic"`), the extent along x, y and z (`"anisotropic"`), or
    everything but the orientation (`"triclinic"`). Time-reversible; one evaluation of energy and virial a step.

    With a symmetric rate of strain $v$ restricted to `shape` (mass $W = (f + 3) k_B T \tau_P^2 / 3$), $f = 3N - 3$:
    $\dot r = p/m + r v$, $\dot h = h v$, $\dot p = F - p v - \frac{2}{f} \mathrm{tr}(v)\, p$ and
    $W \dot v = V (\Pi - P) + \frac{2}{f} \sum p^2 / m$, the chains left out. The published equations have 1 instead of
    2 and 3N instead of $f$. As the center of mass is at rest here, its share $V$ of the partition function would be
    missing; the 2 puts it back, and the density of volumes is that of `NPT`: $V^N e^{-\beta P V}$ for an ideal gas.
    A triclinic cell is turned back after each step, as in `NPT`.

    **Reference:** Martyna, Tobias & Klein, J. Chem. Phys. 101, 4177 (1994), doi:10.1063/1.467468; Martyna, Tuckerman,
    Tobias & Klein, Mol. Phys. 87, 1117 (1996), doi:10.1080/00268979600100761; Tuckerman, Alejandre, López-Rendón,
    Jochim & Martyna, J. Phys. A 39, 5629 (2006), doi:10.1088/0305-4470/39/19/S18; Yu et al., Chem. Phys. 370, 294
    (2010), doi:10.1016/j.chemphys.2010.02.014. Checked against the exact ideal gas.
    """

    timestep: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    temperature: Target = eqx.field(converter=as_target)
    period: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    pressure: Target = eqx.field(converter=as_target)
    barostat_period: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    shape: str = eqx.field(static=True, default="isotropic")
    chain: int = eqx.field(static=True, default=3)
    substeps: int = eqx.field(static=True, default=2)
    order: int = eqx.field(static=True, default=3)

    def __check_init__(self):
        check_positive("timestep", TIME, self.timestep)
        check_positive("period", TIME, self.period)
        check_positive("barostat_period", TIME, self.barostat_period)
        check_positive("temperature", "K", self.temperature)
        check_temperature(self.temperature)
        check_finite_target("pressure", "eV/Å³; enter as `1 * units.GPa`", self.pressure)
        check_shape(self.shape)
        check_chain(self.chain, self.substeps, self.order)

    def step(self, energy: AbstractEnergy, state: State) -> State:
        state = self._push_atoms(self._push_cell(self._thermostats(state)))
        before, state = state, self._drift(state)
        # Zero unless a target changes; the mean of both volumes keeps it of second order.
        freed = 0.5 * (self._freed(before) + self._freed(state))
        neighbors = update(state.neighbors, state.system)
        value, forces, virial = evaluate_virial(energy, state.system, neighbors)
        state = replace(state, energy=value, forces=forces, neighbors=neighbors, step=state.step + 1)
        state = _with(state, virial=virial, heat=state.bath.heat + freed)
        return self._thermostats(self._push_cell(self._push_atoms(state)))

    def conserved(self, state: State) -> Float[Array, ""]:
        kinetic = kinetic_energy(state.momenta, state.system.masses)
        return state.energy + kinetic + self._held(state) + state.bath.heat

    def degrees_of_freedom(self, system: System) -> int:
        return 3 * len(system.numbers) - 3

    def bath(self, energy: AbstractEnergy, system: System, neighbors: Neighbors) -> Piston:
        check_periodic(system.pbc)
        check_momenta(system)
        _, _, virial = Compiled(evaluate_virial)(energy, system, neighbors)
        zero = jnp.zeros_like(virial)
        chain = chain_at_rest(self.chain, zero.dtype)
        return Piston(rate=zero, virial=virial, atoms=chain, cell=chain, heat=zero[0, 0])

    def start_temperature(self) -> Float[Array, ""]:
        return first(self.temperature)

    def _kT(self, state: State) -> Float[Array, ""]:
        return units.kB * now(self.temperature, self.timestep, state)

    def _mass(self, state: State) -> Float[Array, ""]:
        """Mass of the cell [eV·time²]."""
        kT = self._kT(state)
        return (self.degrees_of_freedom(state.system) + 3.0) / 3.0 * kT * self.barostat_period.astype(kT.dtype) ** 2

    def _chain_masses(self, state: State) -> tuple[Float[Array, "chain"], Float[Array, "chain"]]:
        """Masses of the thermostats of the atoms and of the cell [eV·time²]."""
        kT, dof = self._kT(state), float(self.degrees_of_freedom(state.system))
        atoms = chain_masses(state.bath.atoms, dof, kT, self.period)
        return atoms, chain_masses(state.bath.cell, float(SHAPES[self.shape]), kT, self.barostat_period)

    def _held(self, state: State) -> Float[Array, ""]:
        """Energy [eV] of everything but the atoms: the moving cell, work against the pressure, both chains."""
        atoms, cell = self._chain_masses(state)
        moving = 0.5 * self._mass(state) * jnp.sum(state.bath.rate**2)
        work = now(self.pressure, self.timestep, state) * state.system.volume()
        return moving + work + chain_energy(state.bath.atoms, atoms) + chain_energy(state.bath.cell, cell)

    def _freed(self, state: State) -> Float[Array, ""]:
        """What `_held` loses when the targets become those of the next step [eV]."""
        return self._held(state) - self._held(replace(state, step=state.step + 1))

    def _thermostats(self, state: State) -> State:
        """Half a step of both chains."""
        bath, kT = state.bath, self._kT(state)
        dt, dof = self.timestep.astype(kT.dtype), float(self.degrees_of_freedom(state.system))
        atoms, cell = self._chain_masses(state)
        options = {"substeps": self.substeps, "order": self.order}
        twice = 2.0 * kinetic_energy(state.momenta, state.system.masses)
        factor, chain = advance_chain(bath.atoms, atoms, twice, dof, kT, dt, **options)
        twice = self._mass(state) * jnp.sum(bath.rate**2)
        slower, cells = advance_chain(bath.cell, cell, twice, float(SHAPES[self.shape]), kT, dt, **options)
        state = _with(state, rate=slower * bath.rate, atoms=chain, cell=cells)
        return replace(state, momenta=factor * state.momenta)

    def _push_cell(self, state: State) -> State:
        """Half a step of the force on the cell."""
        p, system = state.momenta, state.system
        flux = kinetic_flux(p, system.masses)
        share = 2.0 / self.degrees_of_freedom(system) * jnp.trace(flux)
        work = now(self.pressure, self.timestep, state) * system.volume()
        force = restrict(flux + state.bath.virial + (share - work) * jnp.eye(3, dtype=p.dtype), self.shape)
        return _with(state, rate=state.bath.rate + 0.5 * self.timestep.astype(p.dtype) / self._mass(state) * force)

    def _push_atoms(self, state: State) -> State:
        r"""Half a step $t$ of the forces in the moving cell: with $A = -t (v + 2 \mathrm{tr}(v) / f)$,
        $p \to p e^A + t \varphi(A) F$."""
        half = 0.5 * self.timestep.astype(state.momenta.dtype)
        rate, eye = state.bath.rate, jnp.eye(3, dtype=state.momenta.dtype)
        drag = -half * (rate + 2.0 / self.degrees_of_freedom(state.system) * jnp.trace(rate) * eye)
        push = product(state.momenta, drag) + half * state.forces
        return replace(state, momenta=state.momenta + product(push, flow(drag)))

    def _drift(self, state: State) -> State:
        r"""A step of free flight in the moving cell, $r \to r + (r A + t p / m) \varphi(A)$ with $A = t v$."""
        system, momenta, rate = state.system, state.momenta, state.bath.rate
        dt = self.timestep.astype(momenta.dtype)
        stretch = flow(dt * rate)
        before, rest = system.positions, state.rest
        move = product(product(before, dt * rate) + dt * momenta / system.masses[:, None], stretch) + rest
        after = before + move
        cell = system.cell + product(product(system.cell, dt * rate), stretch)
        rest = move - (after - before)
        if self.shape == "triclinic":
            turn = turn_back(system.cell, cell)
            after, cell, momenta, rest = (product(x, turn) for x in (after, cell, momenta, rest))
            rate = product(turn.T, product(rate, turn))
        state = replace(state, system=with_cell(system, after, cell), momenta=momenta, rest=rest)
        return _with(state, rate=rate)


def _with(state: State, **changes) -> State:
    """The same state with some fields of its bath changed."""
    names = tuple(changes)
    bath = eqx.tree_at(lambda b: tuple(getattr(b, name) for name in names), state.bath, tuple(changes.values()))
    return replace(state, bath=bath)
