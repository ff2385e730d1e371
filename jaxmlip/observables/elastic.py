"""Elastic constants at temperature from the mean stresses of strained cells."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmlip.energy import AbstractEnergy
from jaxmlip.graph import Graph
from jaxmlip.observables.static import AbstractStatic, Conditions, Stress

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def voigt_strain(index: int, size: float | Float[Array, ""]) -> Float[Array, "3 3"]:
    """The symmetric strain with one Voigt component (xx yy zz yz xz xy), of engineering shear: half of it off the
    diagonal on either side."""
    a, b = _VOIGT[index]
    strain = jnp.zeros((3, 3)).at[a, b].add(0.5).at[b, a].add(0.5)
    return strain * size


def voigt(stress: Float[Array, "*any 3 3"]) -> Float[Array, "*any 6"]:
    """Components xx yy zz yz xz xy of a symmetric tensor."""
    return jnp.stack([stress[..., a, b] for a, b in _VOIGT], axis=-1)


def stiffness(
    plus: Float[Array, "strains 3 3"], minus: Float[Array, "strains 3 3"], size: float | Float[Array, ""]
) -> Float[Array, "6 6"]:
    r"""$C_{ij} = \frac{\sigma_i(+\epsilon_j) - \sigma_i(-\epsilon_j)}{2 \epsilon}$ [unit of the stresses], made
    symmetric.

    `plus` and `minus` are mean stresses (tension positive, motion included) of cells strained by `voigt_strain(j,
    size)` and its negative, j from 0 to 5. Under a pressure these are the stress-strain coefficients, not second
    derivatives of the free energy.

    **Reference:** Wallace, Thermodynamics of Crystals (1972), chapter 1; Barron & Klein, Proc. Phys. Soc. 85, 523
    (1965), doi:10.1088/0370-1328/85/3/313.
    """
    slopes = (voigt(plus) - voigt(minus)).T / (2.0 * size)
    return 0.5 * (slopes + slopes.T)


def cubic_strain(size: float | Float[Array, ""]) -> Float[Array, "3 3"]:
    """Strain along x and engineering shear in yz of the same `size`: in a cubic crystal one pair of cells gives all
    three constants."""
    return voigt_strain(0, size) + voigt_strain(3, size)


def cubic_stiffness(
    plus: Float[Array, "3 3"], minus: Float[Array, "3 3"], size: float | Float[Array, ""]
) -> Float[Array, "3"]:
    """C11, C12 and C44 [unit of the stresses] of a cubic crystal, from the mean stresses of cells strained by
    `cubic_strain(size)` and its negative."""
    slopes = (voigt(plus) - voigt(minus)) / (2.0 * size)
    return jnp.stack([slopes[0], 0.5 * (slopes[1] + slopes[2]), slopes[3]])


class StressSlope(AbstractStatic):
    """What one strained cell adds to a central difference [eV/Å³]: components of its stress times `weights` (xx yy zz
    yz xz xy), over twice its `strain` with sign."""

    weights: Float[Array, "6"] = eqx.field(kw_only=True, converter=jnp.asarray)
    strain: Float[Array, ""] = eqx.field(kw_only=True, converter=jnp.asarray)
    cutoff: float | None = eqx.field(static=True, default=None)

    def source(self) -> AbstractStatic:
        return Stress()

    def frame(self, energy: AbstractEnergy, graph: Graph) -> dict[str, Array]:
        return self.source().frame(energy, graph)

    def reduce(
        self, values: dict[str, Array], weights: Float[Array, "frames"], conditions: Conditions
    ) -> Float[Array, ""]:
        stress = voigt(Stress().reduce(values, weights, conditions))
        return jnp.sum(self.weights.astype(stress.dtype) * stress) / (2.0 * self.strain.astype(stress.dtype))
