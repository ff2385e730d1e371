"""The likelihood of targets, labels and prior about one energy: predictions, their derivatives, and one step."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray
from scipy import linalg

from jaxmlip.compilation import Compiled
from jaxmlip.energy import AbstractEnergy
from jaxmlip.errors import UserError
from jaxmlip.learn import replay as labels
from jaxmlip.learn.adjoint import Checkpoint, Forward
from jaxmlip.learn.diagnostics import estimate, rhats
from jaxmlip.learn.mixture import Mixture, mix
from jaxmlip.learn.reweight import expectation, max_step, reweight
from jaxmlip.learn.sampler import Samples, StatePoint, sample
from jaxmlip.learn.step import is_parameter
from jaxmlip.learn.targets import Dynamics, Target, Vacancy
from jaxmlip.learn.windows import Starts, make_starts, window_estimate, window_gradient
from jaxmlip.observables.correlations import AbstractDynamic
from jaxmlip.observables.static import AbstractStatic
from jaxmlip.properties import StationaryPoint, follow
from jaxmlip.simulate.errors import SimulationError

_log = logging.getLogger(__name__)
_HALVINGS = 8
_FAR, _OPPOSITE = 4.0, -0.9  # chi-square of a value; cosine between two gradients
_FEW = 8  # parameters, up to which tangents along a path are cheaper than going back


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """How far and how carefully.

    - `updates`: at most so many; fewer where a step would raise the likelihood by less than `enough` (of a chi-square).
    - `freedom`: the width of the prior, in root mean squares of each array of parameters.
    - `ess`: the least effective number of frames, as a part of those of one set; `keep` sets are mixed. A step goes as
      far as that, times `leap`: beyond 1 derivatives are trusted farther than weights, and each step is judged by new
      frames. Far from the targets that saves many updates.
    - `rhat`: the largest split R-hat of any replica; frames are doubled up to `doublings` times, then the run stops.
    - `label_rise`: how much the root mean square deviation of the labels may rise.
    - `iterations` of conjugate gradients for a step, to the relative `tolerance`.
    - `max_force` [eV/Å], `closest_pair` [Å] and `max_heat` (times the temperature): limits for frames of dynamics.
    """

    updates: int = 20
    enough: float = 0.02
    freedom: float = 1.0
    ess: float = 0.5
    leap: float = 1.0
    keep: int = 3
    rhat: float = 1.1
    doublings: int = 2
    label_rise: float = 0.1
    iterations: int = 100
    tolerance: float = 1e-3
    max_force: float = 50.0
    closest_pair: float = 0.5
    max_heat: float = 1.3
    seed: int = 0

    def __post_init__(self):
        positive = ("freedom", "label_rise", "tolerance", "max_force", "closest_pair", "enough")
        for name in positive:
            if not getattr(self, name) > 0.0:
                raise UserError(f"`{name}` must be positive; got {getattr(self, name)}.")
        for name in ("updates", "keep", "iterations"):
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if not 0.0 < self.ess < 1.0:
            raise UserError(f"`ess` must lie between 0 and 1; got {self.ess}.")
        if not self.leap >= 1.0:
            raise UserError(f"`leap` must be at least 1; got {self.leap}.")
        if not self.rhat > 1.0 or not self.max_heat > 1.0:
            raise UserError(f"`rhat` and `max_heat` must be above 1; got {self.rhat} and {self.max_heat}.")


class Prediction(NamedTuple):
    """Values of one target and their statistical errors, in the unit of the target; chi-square over its values."""

    value: np.ndarray
    stderr: np.ndarray
    chi2: float


class FitState(NamedTuple):
    """Parameters as one vector, and all that was found for them."""

    params: Float[Array, "parameters"]
    points: dict[Any, StationaryPoint]
    samples: dict[Any, tuple[Samples, ...]]
    mixtures: dict[Any, Mixture]
    starts: dict[Any, Starts]
    values: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    label_chi2: float
    key: PRNGKeyArray


class PredictionFailed(Exception):
    """Parameters that no prediction can be made for."""


class FinetuneProblem:
    """All that does not change from update to update."""

    def __init__(self, energy, targets, replay, settings, trainable):
        self.targets, self.replay, self.settings = targets, replay, settings
        chosen = jax.tree_util.tree_map_with_path(
            lambda path, x: is_parameter(x) and (trainable is None or bool(trainable(jax.tree_util.keystr(path), x))),
            energy,
        )
        self.given, self.fixed = eqx.partition(energy, chosen)
        if not jax.tree.leaves(self.given):
            raise UserError("The energy has no parameters to train: no arrays of floats, or none that are chosen.")
        self.origin, self.unravel = ravel_pytree(self.given)
        widths = jax.tree.map(lambda x: jnp.full_like(x, settings.freedom * _size(x)), self.given)
        self.prior = 1.0 / ravel_pytree(widths)[0] ** 2
        self.places = _ordered(targets)
        self.label_start = None
        for target in targets:
            if isinstance(target.observable, AbstractDynamic):
                try:
                    target.observable.check(energy, target.places[0].window.moments)
                except ValueError as error:
                    raise UserError(f"Target {target.name}: {error}") from error

    def energy(self, state: FitState) -> AbstractEnergy:
        return eqx.combine(self.unravel(state.params), self.fixed)

    def start(self) -> FitState:
        state = FitState(self.origin, {}, {}, {}, {}, {}, {}, 0.0, jax.random.key(self.settings.seed))
        try:
            state = self.sampled(state, self.places)
            state = self.found(state, self.origin)
        except (PredictionFailed, SimulationError) as error:
            raise UserError(f"The energy cannot predict the targets to begin with: {error}") from error
        self.label_start = state.label_chi2
        return state

    def beside(self, state: FitState) -> FitState:
        """The same parameters with predictions of these targets; frames that are there are used.

        **Raises:** `UserError` where a structure or a state point fails.
        """
        there = [p for p in self.places if p in state.samples]
        mixtures = {p: mix(state.samples[p], reach=reach(self.observables(p))) for p in there}
        state = state._replace(points={}, mixtures=mixtures, starts={})
        try:
            state = self.sampled(state, [p for p in self.places if p not in there])
            state = self.with_starts(state, there)
            return self.found(state, state.params)
        except (PredictionFailed, SimulationError) as error:
            raise UserError(f"What is held out cannot be predicted: {error}") from error

    def sampled(self, state: FitState, places: Sequence[Any], alone: bool = False) -> FitState:
        """The state with fresh frames of its own parameters, `alone` or beside earlier ones."""
        energy, key = self.energy(state), state.key
        samples, mixtures = dict(state.samples), dict(state.mixtures)
        points = [p for p in places if isinstance(p, StatePoint)]
        for point in points:
            before, observables, longer = samples.get(point, ()), self.observables(point), point
            for attempt in range(self.settings.doublings + 1):
                key, here = jax.random.split(key)
                states = made.states if attempt else (before[-1].states if before else None)
                made = sample(energy, longer, key=here, states=states)
                self.check_health(point, made)
                worst = rhats(observables, energy, mix((made,), reach=reach(observables)))
                name = max(worst, key=lambda n: worst[n])
                if not worst[name] > self.settings.rhat:
                    break
                if attempt == self.settings.doublings:
                    raise PredictionFailed(
                        f"replicas at {_named(point)} differ (split R-hat {worst[name]:.2f} of {name}): they are in "
                        "different phases, or the runs are too short. Melt them, or give more `burn_in` and `frames`."
                    )
                longer = dataclasses.replace(longer, frames=2 * longer.frames)
            samples[point] = (made,) if alone else (*before, made)[-self.settings.keep :]
            mixtures[point] = mix(samples[point], reach=reach(observables))
        return self.with_starts(state._replace(samples=samples, mixtures=mixtures, key=key), points)

    def with_starts(self, state: FitState, points: Sequence[StatePoint]) -> FitState:
        """The state with starts of windows at the latest frames of some state points."""
        starts, key = dict(state.starts), state.key
        for place in self.places:
            if isinstance(place, Dynamics) and any(place.point is point for point in points):
                key, here = jax.random.split(key)
                made = state.samples[place.point][-1]
                starts[place] = self.started(self.energy(state), place, made, starts.get(place), here)
        return state._replace(starts=starts, key=key)

    def started(
        self, energy: AbstractEnergy, place: Dynamics, made: Samples, before: Starts | None, key: PRNGKeyArray
    ) -> Starts:
        """Starts of windows at the latest frames; how fast changes grow is measured once."""
        known = None if before is None else float(before.exponent)
        try:
            return make_starts(energy, (made,), place.window, key=key, exponent=known)
        except ValueError as error:
            raise UserError(f"Windows at {_named(place.point)}: {error}") from error

    def check_health(self, point: StatePoint, made: Samples) -> None:
        health, limits = made.health, self.settings
        assert health is not None
        if health.largest_force > limits.max_force or health.closest_pair < limits.closest_pair:
            raise PredictionFailed(
                f"dynamics at {_named(point)} met forces of {health.largest_force:.1f} eV/Å and atoms "
                f"{health.closest_pair:.2f} Å apart (limits {limits.max_force} and {limits.closest_pair})"
            )
        if float(health.temperature.max()) > limits.max_heat * point.temperature:
            raise PredictionFailed(f"dynamics at {_named(point)} heat up to {health.temperature.max():.0f} K")

    def observables(self, place: Any) -> dict[str, Any]:
        return {t.name: t.observable for t in self.targets if t.places[0] is place}

    def found(self, state: FitState, params: Float[Array, "parameters"]) -> FitState:
        """The predictions at other parameters: structures relaxed anew, averages by the weights of the frames."""
        energy = eqx.combine(self.unravel(params), self.fixed)
        points, values, errors = {}, {}, {}
        for place in self.places:
            if isinstance(place, StatePoint) and not self.observables(place):
                continue
            if isinstance(place, StatePoint):
                got = estimate(self.observables(place), energy, state.mixtures[place])
                values |= {name: np.ravel(np.asarray(x, float)) for name, x in got.value.items()}
                errors |= {name: np.ravel(np.asarray(x, float)) for name, x in got.stderr.items()}
                continue
            if isinstance(place, Dynamics):
                got = window_estimate(self.observables(place), energy, state.starts[place], blocks=place.blocks)
                values |= {name: np.ravel(x) for name, x in got[0].items()}
                errors |= {name: np.ravel(x) for name, x in got[1].items()}
                continue
            points[place] = place.find(energy, points, state.points.get(place))
            point = points[place]
            if not bool(point.converged) or int(point.negative) > 0:
                raise PredictionFailed(
                    f"a structure of {len(point.system.numbers)} atoms does not relax to a minimum (residual "
                    f"{float(point.residual):.1e} eV/Å, {int(point.negative)} directions in which its energy falls)"
                )
        for target in self.ground():
            row = np.ravel(np.asarray(_values(energy, [points[p] for p in target.places], target), float))
            values[target.name], errors[target.name] = row, np.zeros_like(row)
        for target in self.targets:
            if len(values[target.name]) != len(target.values):
                raise UserError(
                    f"Target {target.name} gives {len(target.values)} values, but its observable "
                    f"{len(values[target.name])}."
                )
        if not all(np.all(np.isfinite(v)) for v in values.values()):
            raise PredictionFailed("a prediction is not finite")
        chi2 = 0.0 if self.replay is None else float(labels.chi_square(self.replay, self.unravel(params), self.fixed))
        return state._replace(params=params, points=points, values=values, errors=errors, label_chi2=chi2)

    def ground(self) -> list[Target]:
        return [t for t in self.targets if not isinstance(t.observable, (AbstractStatic, AbstractDynamic))]

    def predictions(self, state: FitState) -> dict[str, Prediction]:
        found = {}
        for t in self.targets:
            value, error = state.values[t.name], state.errors[t.name]
            away = t.whitening() @ (value - t.values)
            found[t.name] = Prediction(value / t.size, error / t.size, float(np.mean(away**2)))
        return found

    def chi2(self, state: FitState) -> float:
        """Its sum over all values, with the covariance of sampling."""
        return float(sum(np.sum((_whitening(t, state) @ (state.values[t.name] - t.values)) ** 2) for t in self.targets))

    def objective(self, state: FitState) -> float:
        moved = np.asarray(state.params - self.origin, float)
        return self.chi2(state) + state.label_chi2 + float(np.sum(np.asarray(self.prior, float) * moved**2))

    def rows(self, state: FitState) -> dict[str, Float[Array, "values parameters"]]:
        """Derivatives of all fitted values by the parameters."""
        found = {}
        for place in self.places:
            fitted = self.observables(place)
            if fitted and isinstance(place, Dynamics):
                found |= self.window_rows(state, place, fitted)
            elif fitted and isinstance(place, StatePoint):
                rows = _static_rows(state.params, self.unravel, self.fixed, fitted, state.mixtures[place])
                found |= {name: row.reshape(-1, len(state.params)) for name, row in rows.items()}
        ground = self.ground()
        for places in dict.fromkeys(t.places for t in ground):
            here = [t for t in ground if t.places == places]
            points = [state.points[p] for p in places]
            moving = tuple(not isinstance(p, Vacancy) for p in places)
            many = _ground_rows(
                state.params, self.unravel, self.fixed, points, tuple(t.observable for t in here), moving
            )
            found |= {t.name: row.reshape(-1, len(state.params)) for t, row in zip(here, many, strict=True)}
        return found

    def window_rows(self, state: FitState, place: Dynamics, fitted: Mapping[str, Any]) -> dict[str, Array]:
        """Derivatives of correlations in time at one place."""
        adjoint = Forward() if len(state.params) <= _FEW else Checkpoint()
        found = window_gradient(
            dict(fitted),
            self.energy(state),
            state.starts[place],
            of=lambda means: jnp.concatenate([jnp.ravel(means[name]) for name in fitted]),
            adjoint=adjoint,
            paths=place.paths,
            blocks=place.blocks,
        )
        trained = jax.tree.map(
            lambda x, g: None if x is None else g, self.given, found.gradient, is_leaf=lambda x: x is None
        )
        rows = jnp.stack(
            [
                ravel_pytree(jax.tree.map(lambda g, x, i=i: jnp.asarray(g[i], x.dtype), trained, self.given))[0]
                for i in range(len(found.value))
            ]
        )
        ends = np.cumsum([len(state.values[name]) for name in fitted])[:-1]
        return dict(zip(fitted, jnp.split(rows, ends), strict=True))

    def update(self, state: FitState) -> tuple[FitState, dict[str, Any]]:
        """One step, or the reason to stop."""
        rows = self.rows(state)
        whitened, wrong = [], []
        for t in self.targets:
            scale = _whitening(t, state)
            whitened.append(scale @ np.asarray(rows[t.name], float))
            wrong.append(scale @ (state.values[t.name] - t.values))
        jacobian = jnp.asarray(np.concatenate(whitened), self.origin.dtype)
        residual = jnp.asarray(np.concatenate(wrong), self.origin.dtype)
        gradient = jacobian.T @ residual + self.prior * (state.params - self.origin)
        if self.replay is not None:
            gradient = gradient + ravel_pytree(labels.slope(self.replay, self.unravel(state.params), self.fixed)[1])[0]
        pulls = {t.name: w.T @ r for t, w, r in zip(self.targets, whitened, wrong, strict=True)}
        step, solved = self.solve(state, jacobian, gradient)
        within = min([1.0, *self.allowed(state, step)])
        allowed = min(1.0, self.settings.leap * within)
        record = {
            "chi2": self.chi2(state),
            "label_chi2": state.label_chi2,
            "solved": solved,
            "allowed": round(float(allowed), 4),
            "conflicts": self.conflicts(pulls, [float(np.mean(r**2)) for r in wrong]),
            "stop": "",
        }
        promised = -float(jnp.vdot(gradient, step))
        if promised < self.settings.enough:
            return state, record | {"stop": "no step would raise the likelihood further", "promised": promised}
        size, before = allowed, self.objective(state)
        for _ in range(_HALVINGS):
            try:
                params = state.params + jnp.asarray(size, step.dtype) * step
                after = self.found(state, params) if size <= within else self.leapt(state, params)
                gained = before - self.objective(after)
                if gained > 0.0 and self.keeps_labels(after):
                    break
                why = "the likelihood would fall" if gained <= 0.0 else "the labels would be given up"
            except (PredictionFailed, SimulationError) as error:
                why = str(error)
            _log.info("step of %.3g taken back: %s", size, why)
            size *= 0.5
        else:
            return state, record | {"stop": f"no step could be made: {why}"}
        ess = {p: float(reweight(self.energy(after), m).effective) for p, m in after.mixtures.items()}
        tired = [p for p, n in ess.items() if n < 0.9 * len(after.samples[p][-1].frames)]
        if tired:
            try:
                after = self.found(self.sampled(after, tired), after.params)
            except (PredictionFailed, SimulationError) as error:
                return state, record | {"stop": f"taken back: {error}"}
        record |= {"step": round(float(size), 4), "promised": promised, "gained": gained, "chi2": self.chi2(after)}
        record |= {"linearity": self.linearity(state, after, rows, size * np.asarray(step, float))}
        record |= {"label_chi2": after.label_chi2, "effective": {_named(p): round(n, 1) for p, n in ess.items()}}
        return after, record

    def leapt(self, state: FitState, params: Float[Array, "parameters"]) -> FitState:
        """The predictions at parameters that frames do not reach, from new ones."""
        return self.found(self.sampled(state._replace(params=params), self.places, alone=True), params)

    def linearity(
        self, before: FitState, after: FitState, rows: Mapping[str, Array], step: np.ndarray
    ) -> dict[str, float]:
        """Of each fitted target the largest difference between predicted and realised change, in standard errors of
        the targets and of both samplings."""
        found = {}
        for t in self.targets:
            off = np.asarray(rows[t.name], float) @ step - (after.values[t.name] - before.values[t.name])
            error = np.sqrt(t.errors**2 + before.errors[t.name] ** 2 + after.errors[t.name] ** 2)
            found[t.name] = round(float(np.max(np.abs(off) / error)), 2)
        return found

    def conflicts(self, pulls: Mapping[str, np.ndarray], chi2: Sequence[float]) -> list[str]:
        """Pairs of targets far from their values that pull the parameters opposite ways."""
        far = [name for name, c in zip(pulls, chi2, strict=True) if c > _FAR]
        scale = 1.0 / np.sqrt(np.asarray(self.prior, float))
        unit = {name: pulls[name] * scale / max(float(np.linalg.norm(pulls[name] * scale)), 1e-300) for name in far}
        pairs = [(a, b) for i, a in enumerate(far) for b in far[:i] if float(unit[a] @ unit[b]) < _OPPOSITE]
        return [f"{b} and {a}" for a, b in pairs]

    def keeps_labels(self, state: FitState) -> bool:
        if not self.label_start:
            return True
        return np.sqrt(state.label_chi2 / self.label_start) < 1.0 + self.settings.label_rise

    def allowed(self, state: FitState, step: Float[Array, "parameters"]) -> list[float]:
        """How much of a step each state point allows."""
        direction = eqx.combine(
            self.unravel(step), jax.tree.map(jnp.zeros_like, eqx.filter(self.fixed, eqx.is_inexact_array))
        )
        energy = self.energy(state)
        return [float(max_step(energy, direction, m, ess=self.settings.ess)) for m in state.mixtures.values()]

    def solve(self, state: FitState, jacobian: Array, gradient: Array) -> tuple[Array, bool]:
        """The step by conjugate gradients, preconditioned by the prior and the observables."""
        params = self.unravel(state.params)

        def product(v):
            total = jacobian.T @ (jacobian @ v) + self.prior * v
            if self.replay is not None:
                total = total + ravel_pytree(labels.curvature(self.replay, params, self.fixed, self.unravel(v)))[0]
            return total

        inner = jnp.eye(len(jacobian), dtype=jacobian.dtype) + (jacobian / self.prior[None]) @ jacobian.T
        factor = linalg.cho_factor(np.asarray(inner, float), lower=True)

        def precondition(v):
            plain = v / self.prior
            back = linalg.cho_solve(factor, np.asarray(jacobian @ plain, float))
            return plain - (jacobian.T @ jnp.asarray(back, v.dtype)) / self.prior

        solution, rest = jnp.zeros_like(gradient), -gradient
        aimed = precondition(rest)
        direction, square = aimed, float(jnp.vdot(rest, aimed))
        goal = self.settings.tolerance**2 * square
        for _ in range(self.settings.iterations):
            if square <= goal:
                return solution, True
            image = product(direction)
            along = square / float(jnp.vdot(direction, image))
            solution, rest = solution + along * direction, rest - along * image
            aimed = precondition(rest)
            after = float(jnp.vdot(rest, aimed))
            direction, square = aimed + (after / square) * direction, after
        return solution, square <= goal


@Compiled
def _values(energy: AbstractEnergy, points: list[StationaryPoint], target: Any) -> Array:
    return target.observable(energy, *points)


@Compiled
def _ground_rows(params, unravel, fixed, points, observables, moving) -> list[Array]:
    """Derivatives of quantities of the same structures, in one program."""

    def values(params):
        energy = eqx.combine(unravel(params), fixed)
        there = [follow(energy, p) if free else p for p, free in zip(points, moving, strict=True)]
        return [jnp.ravel(o(energy, *there)) for o in observables]

    return jax.jacrev(values)(params)


@Compiled
def _static_rows(params, unravel, fixed, observables: Mapping[str, AbstractStatic], mixture: Mixture):
    def values(params):
        return expectation(observables, eqx.combine(unravel(params), fixed), mixture)

    return jax.jacrev(values)(params)


def _whitening(target: Target, state: FitState) -> np.ndarray:
    covariance = target.covariance() + np.diag(state.errors[target.name] ** 2)
    lower = linalg.cholesky(covariance, lower=True)
    return linalg.solve_triangular(lower, np.eye(len(lower)), lower=True)


def _ordered(targets: Sequence[Target]) -> list[Any]:
    """Structures and state points, each once, before what needs them."""
    places: dict[Any, None] = {}
    for place in (p for t in targets for p in t.places):
        if isinstance(place, Vacancy):
            places[place.crystal] = None
        if isinstance(place, Dynamics):
            places[place.point] = None
        places[place] = None
    return list(places)


def _size(x: Array) -> float:
    size = float(jnp.sqrt(jnp.mean(jnp.asarray(x, float) ** 2)))
    return size if size > 0.0 else 1.0


def reach(observables: Mapping[str, AbstractStatic]) -> float | None:
    cutoffs = [o.cutoff for o in observables.values() if o.cutoff is not None]
    return max(cutoffs, default=None)


def _named(point: StatePoint) -> str:
    return point.name or f"{point.temperature:g} K"
