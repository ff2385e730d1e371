"""Units: eV, Å, u, K and e inside; time is Å·sqrt(u/eV) = 10.18 fs. Plain floats, so no unit picks a dtype.

Enter by multiplying (`0.5 * units.fs`), leave by dividing (`stress / units.GPa`).

**Reference:** CODATA 2022 (Mohr et al., 2024); the eV, Boltzmann constant and Avogadro number are exact.
"""

_ELEMENTARY_CHARGE = 1.602176634e-19  # C, exact
_ATOMIC_MASS = 1.66053906892e-27  # kg
_VACUUM_PERMITTIVITY = 8.8541878188e-12  # F/m
_AVOGADRO = 6.02214076e23  # 1/mol, exact
_PI = 3.141592653589793

eV = 1.0
meV = 1e-3
angstrom = 1.0
nm = 10.0
bohr = 0.529177210544
hartree = 27.211386245981
rydberg = hartree / 2.0
kcal_per_mol = 4184.0 / (_AVOGADRO * _ELEMENTARY_CHARGE)
kJ_per_mol = 1000.0 / (_AVOGADRO * _ELEMENTARY_CHARGE)

fs = 1e-15 / (1e-10 * (_ATOMIC_MASS / _ELEMENTARY_CHARGE) ** 0.5)
ps = 1e3 * fs
ns = 1e6 * fs
THz = 1.0 / ps

K = 1.0
kB = 1.380649e-23 / _ELEMENTARY_CHARGE  # eV/K

Pa = 1e-30 / _ELEMENTARY_CHARGE  # eV/Å³
kbar = 1e8 * Pa
GPa = 1e9 * Pa

coulomb = _ELEMENTARY_CHARGE / (4.0 * _PI * _VACUUM_PERMITTIVITY) * 1e10  # e²/(4 pi eps0), eV·Å
g_per_cm3 = 1e-3 * 1e-24 / _ATOMIC_MASS  # u/Å³
