"""What has been measured of silicon."""

import math

LATTICE = 5.43102  # Å, 295.65 K
CONSTANTS = (165.78, 63.94, 79.62)  # GPa: C11, C12, C44 at 298 K
COLD_LATTICE = 5.4298  # Å, near 0 K
COLD_CONSTANTS = (167.5, 64.9, 80.2)  # GPa, 4.2 K
PHONONS = (15.53, 4.49, 12.32, 13.90)  # THz: optical at Gamma; TA, LA, TO at X

SOURCES = {
    "lattice": "Mohr, Newell, Taylor & Tiesinga (CODATA 2022), Rev. Mod. Phys. 97, 025002 (2025)",
    "constants": "McSkimin & Andreatch, J. Appl. Phys. 35, 2161 (1964), doi:10.1063/1.1702809",
    "phonons": "Nilsson & Nelin, Phys. Rev. B 6, 3777 (1972), doi:10.1103/PhysRevB.6.3777",
    "expansion": "Okada & Tokumaru, J. Appl. Phys. 56, 314 (1984), doi:10.1063/1.333965",
    "cold lattice": "Lyon et al., J. Appl. Phys. 48, 865 (1977), doi:10.1063/1.323747 (typed from memory)",
    "cold constants": "Hall, Phys. Rev. 161, 756 (1967), doi:10.1103/PhysRev.161.756, typed from memory",
    "hot": "Nikanorov, Burenkov & Stepanov, Sov. Phys. Solid State 13, 2516 (1972): falling as exp(-k (T - 298.15 K))",
}


def strain_at(kelvin: float) -> float:
    """Linear expansion since 295.65 K, by the law of Okada & Tokumaru (120 to 1500 K)."""

    def integral(t: float) -> float:
        k = 5.88e-3
        return 3.725e-6 * (t + math.exp(-k * (t - 124.0)) / k) + 0.5 * 5.548e-10 * t * t

    return integral(kelvin) - integral(295.65)


def lattice_at(kelvin: float) -> float:
    """Lattice constant [Å]."""
    return LATTICE * math.exp(strain_at(kelvin))


def expansion(cold: float, warm: float) -> float:
    """Mean linear coefficient [1/K]."""
    return (strain_at(warm) - strain_at(cold)) / (warm - cold)


def constants_at(kelvin: float) -> tuple[float, float, float]:
    """C11, C12, C44 [GPa]."""
    slopes = (9.4e-5, 9.8e-5, 8.3e-5)
    c11, c12, c44 = (c * math.exp(-k * (kelvin - 298.15)) for c, k in zip(CONSTANTS, slopes, strict=True))
    return c11, c12, c44
