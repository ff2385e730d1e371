"""The structures: a fixed, seeded list of silicon cells, a little of every kind first."""

import math
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import neighbor_list

A0 = 5.475  # PBE lattice constant of this pseudopotential, A


class StillingerWeber(Calculator):
    """Silicon of Phys. Rev. B 31, 5262 (1985): the sampler, never a label."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    eps, sig, a, lam, gam, A, B = 2.1683, 2.0951, 1.80, 21.0, 1.20, 7.049556277, 0.6022245584

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        n, cut = len(self.atoms), self.a * self.sig
        i, j, d, v = neighbor_list("ijdD", self.atoms, cut - 1e-3)
        forces = np.zeros((n, 3))
        x, u = self.sig / (d - cut), v / d[:, None]
        poly, decay = self.B * (self.sig / d) ** 4 - 1, np.exp(x)
        energy = 0.5 * self.eps * self.A * np.sum(poly * decay)
        slope = -4 * self.B * self.sig**4 / d**5 - poly * x**2 / self.sig
        pair = 0.5 * self.eps * self.A * (slope * decay)[:, None] * u  # dE/dv
        g, dg = np.exp(self.gam * x), -self.gam * x**2 / self.sig * np.exp(self.gam * x)
        groups = [np.flatnonzero(i == m) for m in range(n)]
        p, q = np.hstack([np.array(np.meshgrid(m, m)).reshape(2, -1) for m in groups])
        p, q = p[p < q], q[p < q]
        c = np.sum(u[p] * u[q], axis=1)
        h, k = self.lam * self.eps * (c + 1 / 3) ** 2, 2 * self.lam * self.eps * (c + 1 / 3)
        energy += np.sum(h * g[p] * g[q])
        for s, t in ((p, q), (q, p)):
            radial = (h * dg[s] * g[t])[:, None] * u[s]
            bend = (k * g[p] * g[q] / d[s])[:, None] * (u[t] - c[:, None] * u[s])
            np.add.at(pair, s, radial + bend)
        np.add.at(forces, i, pair)
        np.add.at(forces, j, -pair)
        self.results = {"energy": energy, "forces": forces}


def min_distance(atoms: Atoms) -> float:
    d = neighbor_list("d", atoms, 3.5)
    return float(d.min()) if len(d) else math.inf


def lattice(name: str, volume: float) -> Atoms:
    """A silicon phase at `volume` (A^3 per atom), usual axial ratio, in a cell of right angles.

    The rule for the k points compares the steps along each axis; it treats cells alike where the
    axes are orthogonal, so every phase is given as one (see README.md).
    """
    h = math.sqrt(0.5)
    sites = {
        "diamond": ([h, h, 1], [[0, 0, 0], [0.5, 0, 0.25], [0.5, 0.5, 0.5], [0, 0.5, 0.75]]),
        "fcc": ([1, 1, 1], [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
        "bcc": ([1, 1, 1], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        "sc": ([1, 1, 1], [[0, 0, 0]]),
        "beta-tin": ([1, 1, 0.552], [[0, 0, 0], [0, 0.5, 0.25], [0.5, 0.5, 0.5], [0.5, 0, 0.75]]),
        "hexagonal diamond": (
            [1, math.sqrt(3), 1.653],
            [
                [x + s, y + s, z]
                for s in (0, 0.5)
                for x, y, z in (
                    (0, 0, 0.063),
                    (0, 0, 0.437),
                    (0.5, 1 / 6, 0.563),
                    (0.5, 1 / 6, 0.937),
                )
            ],
        ),
    }
    edges, places = sites[name]
    atoms = Atoms("Si" * len(places), cell=edges, scaled_positions=places, pbc=True)
    scale = (volume * len(atoms) / atoms.get_volume()) ** (1 / 3)
    atoms.set_cell(atoms.cell * scale, scale_atoms=True)
    return atoms


def conventional(n: int, a: float = A0) -> Atoms:
    """A crystal of 8 or 64 atoms (cubic), of 16 or 32 (tetragonal 4-atom cells)."""
    if n in (8, 64):
        return bulk("Si", cubic=True, a=a) * round((n / 8) ** (1 / 3))
    return lattice("diamond", a**3 / 8) * {16: (2, 2, 1), 32: (2, 2, 2)}[n]


def strained(rng: np.random.Generator, atoms: Atoms, size: float, rattle: float) -> Atoms:
    e = rng.uniform(-size, size, (3, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + (e + e.T) / 2), scale_atoms=True)
    return rattled(rng, atoms, rattle)


def rattled(rng: np.random.Generator, atoms: Atoms, std: float, floor: float = 1.9) -> Atoms:
    """Normal displacements of `std` per component, drawn again until no pair is below `floor`."""
    for _ in range(1000):
        new = atoms.copy()
        new.positions += rng.normal(0, std, (len(atoms), 3)) if std else 0
        if min_distance(new) > floor:
            return new
    raise RuntimeError(f"no configuration above {floor} A at std {std}")


def thermal_std(temperature: float) -> float:
    """Displacement of one atom at a temperature, from <u^2> = 0.0059 A^2 at 300 K, classical."""
    return math.sqrt(0.0059 * temperature / 300)


def sampled(rng, atoms: Atoms, temperature: float, steps: int, floor: float) -> Atoms:
    """The first configuration above `floor` after `steps` of Stillinger-Weber Langevin dynamics."""
    atoms = atoms.copy()
    atoms.calc = StillingerWeber()
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    friction = 0.02 / units.fs
    md = Langevin(atoms, 1.5 * units.fs, temperature_K=temperature, friction=friction, fixcm=False, rng=rng)
    md.run(steps)
    for _ in range(200):
        if min_distance(atoms) > floor:
            return Atoms("Si" * len(atoms), atoms.positions, cell=atoms.cell, pbc=True)
        md.run(5)
    raise RuntimeError(f"no configuration above {floor} A at {temperature} K")


def molten(rng, n: int, temperature: float, density: float) -> Atoms:
    """A liquid in a slightly distorted box: density in g/cm^3, melted at 6000 K, held at T."""
    atoms = conventional(n)
    volume = n * 28.0855 / (density * 0.602214)
    atoms.set_cell(atoms.cell * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    atoms = strained(rng, atoms, 0.04, 0.05)
    atoms = sampled(rng, atoms, 6000.0, 250, 1.5)
    return sampled(rng, atoms, temperature, 300, 1.9)


def holed(rng, n: int, std: float) -> Atoms:
    atoms = strained(rng, conventional(n), 0.015, 0.0)
    del atoms[int(rng.integers(n))]
    return rattled(rng, atoms, std)


def close_pair(rng, n: int, distance: float) -> Atoms:
    """A rattled crystal in which one bond is shortened to `distance` from both ends."""
    atoms = rattled(rng, conventional(n), 0.06, 2.0)
    i, j, v = neighbor_list("ijD", atoms, 2.7)
    b = int(rng.integers(len(i)))
    length = np.linalg.norm(v[b])
    push = 0.5 * (length - distance) * v[b] / length
    atoms.positions[i[b]] += push
    atoms.positions[j[b]] -= push
    return atoms


def slab(rng, std: float) -> Atoms:
    """Four (001) layers of the 8-atom cell under 7 A of vacuum, unreconstructed."""
    atoms = conventional(8)
    atoms.set_cell(np.diag([A0, A0, A0 + 7.0]))
    return rattled(rng, atoms, std)


# One row: config_type, tag, number of frames, builder(rng, index, number) -> (atoms, what made it).
Row = tuple[str, str, int, Callable]


def rows() -> list[Row]:
    def phase(name, v0, low, high):
        def build(rng, m, count):
            v = v0 * (low + (high - low) * m / (count - 1))
            return lattice(name, v), f"{name} at {v:.4f} A^3/atom"

        return build

    def strain(n):
        def build(rng, m, count):
            size, std = rng.uniform(0.02, 0.08), rng.uniform(0, 0.06)
            base = lattice("diamond", A0**3 / 8) if n == 4 else conventional(n)
            made = f"{n}-atom cell, symmetric strain up to {size:.4f}, rattle {std:.4f} A"
            return strained(rng, base, size, std), made

        return build

    def rattle(n, scale=0.02):
        def build(rng, m, count):
            t = 100 + 1400 * (m + rng.uniform()) / count
            s = 1 + rng.uniform(-scale, scale)
            made = f"{n}-atom cell, rattle for {t:.0f} K, lattice constant x {s:.4f}"
            return rattled(rng, conventional(n, A0 * s), thermal_std(t)), made

        return build

    def hot(n):
        def build(rng, m, count):
            t = 1000 + 1500 * (m + rng.uniform()) / count
            s = 1 + rng.uniform(-0.03, 0.02)
            made = f"{n}-atom cell, Stillinger-Weber MD at {t:.0f} K, lattice constant x {s:.4f}"
            return sampled(rng, conventional(n, A0 * s), t, 300, 1.8), made

        return build

    def liquid(n):
        def build(rng, m, count):
            t, rho = rng.uniform(3000, 5000), rng.uniform(2.5, 2.6)
            made = f"{n} atoms, Stillinger-Weber melt at {t:.0f} K, {rho:.3f} g/cm^3"
            return molten(rng, n, t, rho), made

        return build

    def vacancy(n):
        def build(rng, m, count):
            t = 100 + 1000 * (m + rng.uniform()) / count
            return holed(rng, n, thermal_std(t)), f"{n}-atom cell less one, rattle for {t:.0f} K"

        return build

    def compressed(n):
        def build(rng, m, count):
            s = 0.80 + 0.12 * (m + rng.uniform()) / count
            made = f"{n}-atom cell, lattice constant x {s:.4f}, rattle 0.06 A"
            return rattled(rng, conventional(n, A0 * s), 0.06, 1.65), made

        return build

    def pair(n):
        def build(rng, m, count):
            d = 1.70 + 0.35 * (m + rng.uniform()) / count
            return close_pair(rng, n, d), f"{n}-atom cell, one bond shortened to {d:.4f} A"

        return build

    def surface(rng, m, count):
        t = 100 + 700 * (m + rng.uniform()) / count
        return slab(rng, thermal_std(t)), f"8-atom (001) slab, 7 A of vacuum, rattle for {t:.0f} K"

    def atom(rng, m, count):
        return Atoms("Si", cell=[12.0, 12.5, 13.0], pbc=True), "one atom in a box"

    return [
        ("isolated_atom", "atom", 1, atom),
        ("eos", "diamond", 13, phase("diamond", 20.50, 0.85, 1.18)),
        ("rattled", "r8", 22, rattle(8)),
        ("strained", "s4", 14, strain(4)),
        ("strained", "s8", 8, strain(8)),
        ("hot", "h8", 16, hot(8)),
        ("liquid", "l8", 16, liquid(8)),
        ("vacancy", "v8", 10, vacancy(8)),
        ("compressed", "c8", 7, compressed(8)),
        ("close_pair", "p8", 9, pair(8)),
        ("eos", "beta-tin", 3, phase("beta-tin", 15.3, 0.88, 1.12)),
        ("eos", "hexagonal", 3, phase("hexagonal diamond", 20.5, 0.92, 1.08)),
        ("eos", "sc", 3, phase("sc", 16.2, 0.88, 1.12)),
        ("eos", "bcc", 3, phase("bcc", 14.7, 0.88, 1.12)),
        ("eos", "fcc", 3, phase("fcc", 14.5, 0.88, 1.12)),
        ("surface", "slab", 3, surface),
        ("rattled", "r16", 4, rattle(16)),
        ("hot", "h16", 4, hot(16)),
        ("liquid", "l16", 4, liquid(16)),
        ("vacancy", "v16", 3, vacancy(16)),
        ("large", "r32", 3, rattle(32)),
        ("large", "r64", 1, rattle(64)),
    ]


def plan() -> list[tuple[str, str, int, int, Callable]]:
    """(config_type, tag, number, seed, build) of every frame; any beginning has all the kinds."""
    frames = []
    for kind, tag, count, build in rows():
        order = np.random.default_rng(zlib.crc32(tag.encode())).permutation(count)
        for rank, m in enumerate(int(x) for x in order):
            seed = zlib.crc32(f"{tag}-{m}".encode())
            make = partial(build, np.random.default_rng(seed), m, count)
            late = {"r16": 0.4, "h16": 0.4, "l16": 0.4, "v16": 0.4, "r32": 0.4, "r64": 2.0}
            start = late.get(tag, 0.0)  # the costly ones wait
            when = -1.0 if tag == "atom" else start + (1 - min(start, 1)) * (rank + 0.5) / count
            frames.append((when, kind, tag, m, seed, make))
    frames.sort(key=lambda f: f[0])
    return [f[1:] for f in frames]
