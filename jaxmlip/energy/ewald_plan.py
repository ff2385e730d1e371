"""What is fixed before an Ewald sum is compiled: splitting, cutoffs and sizes, chosen from the accuracy asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxmlip.system import System

ONSET = 0.95  # where both sums begin to be switched off, as a fraction of their cutoffs
_PAIR_COST = 8.0  # time of a pair in the real-space sum over that of an atom and a wave in the reciprocal one
_SPREAD_COST = 4.0  # the same for an atom and a mesh point that it is spread on, and for a point of the mesh
_POINT_COST = 10.0
_FEW = 500  # atoms below which a mesh never pays by much, and waves conserve momentum
_MAX_WAVES = 2_000_000  # more would not be sensible
_MAX_POINTS = 2**27
_SPLINE_ERRORS = {4: 0.4, 5: 0.2, 6: 0.12, 7: 0.1, 8: 0.09}  # by order, at alpha (V/N)^(1/3) = 2


@dataclasses.dataclass(frozen=True)
class EwaldPlan:
    """Sizes and choices of an Ewald sum; `plan_ewald` makes one, plain values so that a file can hold it.

    - `cutoff` [Å] of the real-space sum, `k_cutoff` [1/Å] of the reciprocal one, `alpha` [1/Å] that splits them.
    - `reach`: waves to either side along each reciprocal axis; a cell for which they do not cover `k_cutoff` gives NaN,
      never a wrong number. `complete=False` sums what `reach` holds and asks no more (tables that are defined so).
    - `kinds` of systems that are served, of `"bulk"`, `"slab"`, `"molecule"`; others give NaN.
    - `slots`: atoms of the largest system of a batch, `None` for no limit; a larger system gives NaN.
    - `onset`: both sums are switched off smoothly between `onset` times their cutoff and the cutoff; 1 cuts bluntly.
    - `mesh` and `order`: points along each axis and order of the splines of particle-mesh Ewald, where the reciprocal
      sum goes by a mesh (`None`: by waves); points farther apart than `spacing` [Å] give NaN.
    - `free_axis`, `height` and `gap` [Å] of slabs: which axis does not repeat, the period that it is given instead, and
      how much of that must stay empty.
    """

    cutoff: float
    alpha: float
    k_cutoff: float
    reach: tuple[int, int, int]
    kinds: tuple[str, ...] = ("bulk",)
    slots: int | None = None
    onset: float = ONSET
    complete: bool = True
    mesh: tuple[int, int, int] | None = None
    order: int = 6
    spacing: float = 0.0
    free_axis: int = 2
    height: float = 0.0
    gap: float = 0.0

    def __post_init__(self):
        for name in ("cutoff", "alpha", "k_cutoff"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}.")
        if len(self.reach) != 3 or min(self.reach) < 0:
            raise ValueError(f"`reach` must be three counts of waves; got {self.reach}.")
        if not 0.0 < self.onset <= 1.0:
            raise ValueError(f"`onset` is a fraction of the cutoffs, above 0 and up to 1; got {self.onset}.")
        if not 4 <= self.order <= 8:
            raise ValueError(f"`order` of the splines must be 4 to 8; got {self.order}.")
        if self.mesh is not None and min(self.mesh) < self.order:
            raise ValueError(f"A mesh needs at least {self.order} points along each axis; got {self.mesh}.")
        if not self.kinds or set(self.kinds) - {"bulk", "slab", "molecule"}:
            raise ValueError(f"`kinds` must be some of bulk, slab and molecule; got {self.kinds}.")

    @property
    def periodic(self) -> bool:
        """Whether any system it serves has lattice sums."""
        return "bulk" in self.kinds or "slab" in self.kinds

    @property
    def longest(self) -> tuple[float, float, float]:
        """How long the lattice vectors may become [Å]."""
        if self.mesh is not None:
            x, y, z = (points * self.spacing for points in self.mesh)
        elif self.complete:
            x, y, z = (2.0 * math.pi * (reach + 1) / self.k_cutoff for reach in self.reach)
        else:
            x = y = z = math.inf
        return x, y, z

    @property
    def waves(self) -> int:
        """Terms of the reciprocal sum, half of space."""
        x, y, z = self.reach
        return (x + 1) * (2 * y + 1) * (2 * z + 1)


def plan_ewald(
    systems: System | Sequence[System],
    *,
    cutoff: float | None = None,
    accuracy: float = 1e-6,
    margin: float = 1.1,
    method: str = "auto",
    slots: int | None = None,
    smearing: float | None = None,
) -> EwaldPlan:
    r"""The plan of an Ewald sum for these systems and others of their size (host).

    `accuracy` is the root mean square error of a force, relative to that between two mean charges at the mean distance
    $d = (V/N)^{1/3}$. By the estimates of Kolafa and Perram both sums then err by
    $2 \sqrt{d / r_c} \, e^{-s^2}$ with $s = \alpha r_c = k_c / 2 \alpha$; with $d \le r_c$ this asks for
    $s^2 = \ln(2 / \mathrm{accuracy})$. `cutoff` [Å] should be that of the rest of the sum of energies; without it the
    one with the least work is taken. `margin` is how much longer than here lattice vectors may become, in dynamics
    under pressure or in other frames of a data set; beyond, energies are NaN, which every guard notices.

    `method` is `"waves"` (Ewald's), `"mesh"` (smooth particle-mesh Ewald, from some thousand atoms on) or `"auto"`, the
    one with less work. `slots` is how many atoms a system may have in a batch of several; the largest of `systems` by
    default. `smearing` [Å] is for `LatentEwald`: the width of its charges, which fixes $\alpha = 1 / \sqrt 2 \sigma$.

    **Raises:** `ValueError` where the accuracy is none, or cannot be reached with the given cutoff, and for systems
    that repeat along one axis only.

    **Reference:** Kolafa & Perram, Mol. Simul. 9, 351 (1992), doi:10.1080/08927029208049126.
    """
    systems = [systems] if isinstance(systems, System) else list(systems)
    _check_request(systems, cutoff, accuracy, margin, method)
    if smearing is not None and not (np.isfinite(smearing) and smearing > 0):
        raise ValueError(f"`smearing` must be positive [Å]; got {smearing}.")
    kinds = tuple(sorted({kind(s.pbc) for s in systems}))
    largest = max(s.numbers.shape[-1] for s in systems)
    slots = largest if slots is None and len(systems) > 1 else slots
    s = math.sqrt(math.log(2.0 / accuracy))
    if kinds == ("molecule",):
        cutoff = 1.0 if cutoff is None else cutoff
        alpha = s / cutoff if smearing is None else 1.0 / (math.sqrt(2.0) * smearing)
        return EwaldPlan(float(cutoff), alpha, 1.0, (0, 0, 0), kinds, slots)
    cutoff = _best_cutoff(systems, s) if cutoff is None else float(cutoff)
    alpha = s / (ONSET * cutoff) if smearing is None else 1.0 / (math.sqrt(2.0) * smearing)
    k_cutoff = 2.0 * alpha * s / ONSET
    free_axis, height, gap = _slabs(systems, accuracy, cutoff, margin)
    lengths = margin * np.max([_lengths(s, free_axis, height) for s in systems if any(s.pbc)], axis=0)
    x, y, z = (int(k_cutoff * length / (2.0 * math.pi)) for length in lengths)
    slab = {"free_axis": free_axis, "height": height, "gap": gap}
    waves = EwaldPlan(cutoff, alpha, k_cutoff, (x, y, z), kinds, slots, **slab)
    order, spacing, mesh = best_mesh(lengths, alpha, k_cutoff, accuracy, largest)
    cheaper = largest >= _FEW and _mesh_work(mesh, order, largest) < largest * waves.waves
    if method == "mesh" or (method == "auto" and cheaper):
        work, limit, what = math.prod(mesh), _MAX_POINTS, "mesh points"
        plan = dataclasses.replace(waves, mesh=mesh, order=order, spacing=spacing)
    else:
        work, limit, what, plan = waves.waves, _MAX_WAVES, "waves", waves
    if work > limit:
        raise ValueError(
            f"An accuracy of {accuracy} with a cutoff of {cutoff} Å needs {work} {what} in a cell with lattice vectors "
            f"of {np.round(lengths / margin, 1).tolist()} Å; at most {limit} are summed. Give a longer cutoff, a lower "
            'accuracy, or another `method` ("waves", "mesh").'
        )
    return plan


def best_mesh(
    lengths: np.ndarray, alpha: float, k_cutoff: float, accuracy: float, atoms: int
) -> tuple[int, float, tuple[int, int, int]]:
    r"""Order of the splines, spacing [Å] and points of the mesh with the least work for an accuracy.

    The relative error of the forces by interpolation is $A_p (\alpha h)^{p - 1/2}$ with the spacing $h$. The powers and
    $A_p$ were fitted to forces on 64 random charges in a triclinic cell, $\alpha h$ from 0.1 to 0.7.
    """
    choices = []
    for order, factor in _SPLINE_ERRORS.items():
        spacing = min((accuracy / factor) ** (1.0 / (order - 0.5)) / alpha, 0.98 * math.pi / k_cutoff)
        x, y, z = (_smooth_number(max(int(math.ceil(length / spacing)), order)) for length in lengths)
        choices.append((_mesh_work((x, y, z), order, atoms), order, spacing, (x, y, z)))
    return min(choices)[1:]


def _mesh_work(mesh: tuple[int, int, int], order: int, atoms: int) -> float:
    """Work of a mesh, in units of that of one atom and one wave."""
    return _SPREAD_COST * atoms * order**3 + _POINT_COST * math.prod(mesh)


def _smooth_number(least: int) -> int:
    """The next number that has no prime factors but 2, 3 and 5, which is fast to transform."""
    while True:
        rest = least
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return least
        least += 1


def _check_request(systems: list[System], cutoff: float | None, accuracy: float, margin: float, method: str) -> None:
    if not systems:
        raise ValueError("A plan needs at least one system to be made for; got none.")
    if not 1e-15 <= accuracy < 0.1:
        raise ValueError(f"`accuracy` is a relative error, from 1e-15 to 0.1; got {accuracy}.")
    if not margin >= 1.0:
        raise ValueError(f"`margin` is how much lattice vectors may grow, at least 1; got {margin}.")
    if cutoff is not None and not (np.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"`cutoff` must be positive [Å]; got {cutoff}.")
    if method not in ("auto", "waves", "mesh"):
        raise ValueError(f'`method` must be "auto", "waves" or "mesh"; got {method!r}.')


def kind(pbc: tuple[bool, bool, bool]) -> str:
    """What a system is to long-range sums: "bulk", "slab" or "molecule".

    **Raises:** `ValueError` for systems that repeat along one axis only.
    """
    if sum(pbc) == 1:
        raise ValueError(
            f"Wires (pbc={pbc}) have no long-range sum here. Repeat one more axis with enough vacuum (a slab), or all "
            "three (bulk)."
        )
    return {3: "bulk", 2: "slab", 0: "molecule"}[sum(pbc)]


def _best_cutoff(systems: list[System], s: float) -> float:
    """The cutoff [Å] with the least work for the largest system, between 4 and 9 Å.

    Pairs cost $N \\rho \\frac{4 \\pi}{3} r_c^3$, waves $N V (2 \\alpha s)^3 / 6 \\pi^2$ times the atoms; the minimum is
    at $\\alpha^6 = \\pi^3 t N / V^2$ with the ratio $t$ of the times of one pair and of one atom and wave.
    """
    sizes = [(s.numbers.shape[-1], float(np.max(np.abs(np.linalg.det(s.cell))))) for s in systems if all(s.pbc)]
    if not sizes:
        return 8.0
    atoms, volume = max(sizes)
    alpha = (math.pi**3 * _PAIR_COST * atoms / volume**2) ** (1.0 / 6.0)
    return float(np.clip(s / (ONSET * alpha), 4.0, 9.0))


def _slabs(systems: list[System], accuracy: float, cutoff: float, margin: float) -> tuple[int, float, float]:
    """The free axis, the period given to it and the gap that must stay empty [Å]; zeros where there is no slab.

    What the images of a slab do to each other beyond their dipoles falls as $e^{-2 \\pi g / L}$ with the gap $g$ and
    the longest lattice vector $L$ in the plane.
    """
    slabs = [s for s in systems if sum(s.pbc) == 2]
    axes = {s.pbc.index(False) for s in slabs}
    if len(axes) > 1:
        raise ValueError(f"The slabs are free along different axes, {sorted(axes)}; turn them to be free along one.")
    if not slabs:
        return 2, 0.0, 0.0
    axis = axes.pop()
    thick, wide = 0.0, 0.0
    for system in slabs:
        cell = np.asarray(system.cell, np.float64).reshape(-1, 3, 3)
        a, b = cell[:, (axis + 1) % 3], cell[:, (axis + 2) % 3]
        normal = np.cross(a, b) / np.linalg.norm(np.cross(a, b), axis=-1, keepdims=True)
        positions = np.asarray(system.positions, np.float64).reshape(len(cell), -1, 3)
        thick = max(thick, float(np.ptp(np.einsum("snx,sx->sn", positions, normal), axis=1).max()))
        # The slowest decay belongs to the shortest reciprocal vector, so to the largest height in the plane.
        area = np.linalg.norm(np.cross(a, b), axis=-1)
        shortest = np.minimum(np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1))
        wide = max(wide, float((area / shortest).max()), float(np.linalg.norm(a, axis=-1).max()),
                   float(np.linalg.norm(b, axis=-1).max()))  # fmt: skip
    gap = max(margin * wide / (2.0 * math.pi) * math.log(1.0 / accuracy), cutoff)
    return axis, float(margin * thick + 2.0 + gap), float(gap)


def _lengths(system: System, free_axis: int, height: float) -> np.ndarray:
    """Lengths of the lattice vectors [Å], the largest of all replicas."""
    lengths = np.linalg.norm(np.asarray(system.cell, np.float64).reshape(-1, 3, 3), axis=-1).max(axis=0)
    if not all(system.pbc):
        lengths[free_axis] = height
    return lengths
