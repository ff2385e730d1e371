"""The likelihood of targets, labels and prior about one energy: predictions, their derivatives, and one step."""

from __future__ import annotations

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
from jaxmlip.energy import AbstractEnergy, is_parameter
from jaxmlip.errors import UserError
from jaxmlip.learn import replay as labels
from jaxmlip.learn.adjoint import Checkpoint, Forward
from jaxmlip.learn.diagnostics import estimate, gradient_noise
from jaxmlip.learn.finetune_sampling import PredictionFailed, draw, named, reach
from jaxmlip.learn.finetune_settings import FinetuneSettings
from jaxmlip.learn.free_energies import melting_estimate, melting_temperature
from jaxmlip.learn.gauss_newton import Quadratic, gauss_newton_step
from jaxmlip.learn.mixture import Mixture, mix
from jaxmlip.learn.reweight import max_step, replica_rows, reweight
from jaxmlip.learn.sampler import Samples, StatePoint
from jaxmlip.learn.targets import Dynamics, MeltingPoint, Quantity, Target, Total, Vacancy
from jaxmlip.learn.windows import Starts, make_starts, window_estimate, window_gradient
from jaxmlip.observables.correlations import AbstractDynamic
from jaxmlip.observables.static import AbstractStatic
from jaxmlip.properties import StationaryPoint, follow
from jaxmlip.simulate.errors import SimulationError

_log = logging.getLogger(__name__)
_HALVINGS = 8
_FAR, _OPPOSITE = 4.0, -0.9  # chi-square of a value; cosine between two gradients
_FEW = 8  # parameters, up to which tangents along a path are cheaper than going back


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
    fitted_chi2: float
    key: PRNGKeyArray


class FinetuneProblem:
    """All that does not change from update to update."""

    settings: FinetuneSettings

    def __init__(self, energy, targets, replay, settings, trainable, fitted=None):
        self.targets, self.replay, self.fitted, self.settings = targets, replay, fitted, settings
        self.kinds = [x for x in (replay, fitted) if x is not None]
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
        self.label_start = self.fitted_start = None
        for target in targets:
            if isinstance(target.observable, AbstractDynamic):
                try:
                    target.observable.check(energy, target.places[0].window.moments)
                except ValueError as error:
                    raise UserError(f"Target {target.name}: {error}") from error

    def energy(self, state: FitState) -> AbstractEnergy:
        return eqx.combine(self.unravel(state.params), self.fixed)

    def start(self) -> FitState:
        state = FitState(self.origin, {}, {}, {}, {}, {}, {}, 0.0, 0.0, jax.random.key(self.settings.seed))
        try:
            state = self.sampled(state, self.places)
            state = self.found(state, self.origin)
        except (PredictionFailed, SimulationError) as error:
            raise UserError(f"The energy cannot predict the targets to begin with: {error}") from error
        self.label_start, self.fitted_start = state.label_chi2, state.fitted_chi2
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
            before, observables = samples.get(point, ()), self.observables(point)
            key, here = jax.random.split(key)
            made = draw(energy, point, observables, before, self.settings, here)
            anchored = any(point in t.places for t in self.melting())  # free energies count from the first frames
            samples[point] = (*before[:1], made) if alone and anchored else (made,) if alone else (*before, made)
            if not anchored:
                samples[point] = samples[point][-self.settings.keep :]
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
            raise UserError(f"Windows at {named(place.point)}: {error}") from error

    def observables(self, place: Any) -> dict[str, Any]:
        """All that is observed at one place, by the names of targets and of their parts."""
        whole = (Total, MeltingPoint)
        found = {
            t.name: t.observable for t in self.targets if not isinstance(t.observable, whole) and t.places[0] is place
        }
        for t in self.totals():
            found |= {name: part for name, (part, where) in _parts(t).items() if where is place}
        return found

    def totals(self) -> list[Target]:
        return [t for t in self.targets if isinstance(t.observable, Total)]

    def melting(self) -> list[Target]:
        return [t for t in self.targets if isinstance(t.observable, MeltingPoint)]

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
        for target in self.melting():
            solid, liquid = (state.samples[p] for p in target.places)
            value, error = melting_estimate(energy, solid, liquid)
            values[target.name], errors[target.name] = np.array([value]), np.array([error])
        for target in self.totals():
            values[target.name] = sum((values.pop(n) for n in _parts(target)), np.zeros(1))
            errors[target.name] = np.sqrt(sum((errors.pop(n) ** 2 for n in _parts(target)), np.zeros(1)))
        for target in self.targets:
            if len(values[target.name]) != len(target.values):
                raise UserError(
                    f"Target {target.name} gives {len(target.values)} values, but its observable "
                    f"{len(values[target.name])}."
                )
        if not all(np.all(np.isfinite(v)) for v in values.values()):
            raise PredictionFailed("a prediction is not finite")
        found = state._replace(params=params, points=points, values=values, errors=errors)
        return found._replace(
            label_chi2=self.of_labels(self.replay, params), fitted_chi2=self.of_labels(self.fitted, params)
        )

    def of_labels(self, kept: labels.AbstractLabels | None, params: Float[Array, "parameters"]) -> float:
        """Their chi-square."""
        return 0.0 if kept is None else float(labels.chi_square(kept, self.unravel(params), self.fixed))

    def ground(self) -> list[Target]:
        return [t for t in self.targets if isinstance(t.observable, Quantity)]

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
        prior = float(np.sum(np.asarray(self.prior, float) * moved**2))
        return self.chi2(state) + state.label_chi2 + state.fitted_chi2 + prior

    def rows(self, state: FitState) -> tuple[dict[str, Float[Array, "values parameters"]], dict[StatePoint, float]]:
        """Derivatives of all fitted values by the parameters, and how far gradients of averages stand out."""
        found, signals = {}, {}
        for place in self.places:
            fitted = self.observables(place)
            if fitted and isinstance(place, Dynamics):
                found |= self.window_rows(state, place, fitted)
            elif fitted and isinstance(place, StatePoint):
                rows, each = self.static_rows(state, place, fitted)
                found, signals[place] = found | rows, self.signal(state, place, each)
        for t in self.melting():
            solid, liquid = (state.mixtures[p] for p in t.places)
            found[t.name] = _melting_row(state.params, self.unravel, self.fixed, solid, liquid)[None]
        for target in self.totals():
            found[target.name] = sum((found.pop(n) for n in _parts(target)), jnp.zeros(()))
        ground = self.ground()
        for places in dict.fromkeys(t.places for t in ground):
            here = [t for t in ground if t.places == places]
            points = [state.points[p] for p in places]
            moving = tuple(not isinstance(p, Vacancy) for p in places)
            many = _ground_rows(
                state.params, self.unravel, self.fixed, points, tuple(t.observable for t in here), moving
            )
            found |= {t.name: row.reshape(-1, len(state.params)) for t, row in zip(here, many, strict=True)}
        return found, signals

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
        rows, signals = self.rows(state)
        weak = [p for p, ratio in signals.items() if ratio < self.settings.signal]
        if weak:
            try:
                state = self.found(self.sampled(state, weak), state.params)
            except (PredictionFailed, SimulationError) as error:
                return state, {**self.record(state), "stop": str(error)}
            rows, signals = self.rows(state)
        whitened, wrong = [], []
        for t in self.targets:
            scale = _whitening(t, state)
            whitened.append(scale @ np.asarray(rows[t.name], float))
            wrong.append(scale @ (state.values[t.name] - t.values))
        none = np.zeros((0, len(state.params)))
        jacobian = jnp.asarray(np.concatenate([none, *whitened]), self.origin.dtype)
        residual = jnp.asarray(np.concatenate([none[:, 0], *wrong]), self.origin.dtype)
        gradient = jacobian.T @ residual + self.prior * (state.params - self.origin)
        for kind in self.kinds:
            gradient = gradient + ravel_pytree(labels.slope(kind, self.unravel(state.params), self.fixed)[1])[0]
        pulls = {t.name: w.T @ r for t, w, r in zip(self.targets, whitened, wrong, strict=True)}
        quadratic = Quadratic(jacobian, gradient, self.prior, tuple(self.kinds), self.unravel, self.fixed)
        step, solved = gauss_newton_step(quadratic, state.params, self.settings)
        within = min([1.0, *self.allowed(state, step)])
        allowed = min(1.0, self.settings.leap * within)
        record = self.record(state) | {
            "solved": solved,
            "allowed": round(float(allowed), 4),
            "conflicts": self.conflicts(pulls, [float(np.mean(r**2)) for r in wrong]),
            "signal": {named(p): round(ratio, 2) for p, ratio in signals.items() if np.isfinite(ratio)},
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
        record |= {"label_chi2": after.label_chi2, "fitted_chi2": after.fitted_chi2}
        record |= {"effective": {named(p): round(n, 1) for p, n in ess.items()}}
        return after, record

    def record(self, state: FitState) -> dict[str, Any]:
        """How far the parameters are from all that is known."""
        chi2 = {"chi2": self.chi2(state), "label_chi2": state.label_chi2, "fitted_chi2": state.fitted_chi2}
        return {**chi2, "conflicts": [], "stop": ""}

    def static_rows(
        self, state: FitState, point: StatePoint, fitted: Mapping[str, Any]
    ) -> tuple[dict[str, Array], np.ndarray]:
        """Derivatives of averages at a state point by name; and those of all values by replica
        [replicas values parameters], as shares of the whole."""
        parts = replica_rows(list(fitted.values()), self.energy(state), state.mixtures[point])
        each = np.stack([self.trained(part) for part in parts])
        ends = np.cumsum([len(self.owner(name).values) for name in fitted])[:-1]
        total = jnp.asarray(each.sum(axis=0), state.params.dtype)
        return dict(zip(fitted, jnp.split(total, ends), strict=True)), each

    def owner(self, name: str) -> Target:
        """The target that something that is observed is, or is a part of."""
        return next(t for t in self.targets if name == t.name or name in _parts(t))

    def signal(self, state: FitState, point: StatePoint, each: np.ndarray) -> float:
        """Norm of the gradient of the chi-square of what is observed at a state point over that of its standard error,
        from replicas (`each` of `static_rows`); infinite where there is nothing left to fit."""
        pulls, chi2 = [], []
        for name in self.observables(point):
            t = self.owner(name)
            scale = _whitening(t, state)
            wrong = scale @ (state.values[t.name] - t.values)
            pulls.append(scale.T @ wrong)
            chi2.append(float(np.mean(wrong**2)))
        if not chi2 or max(chi2) < 1.0 or len(each) < 2:
            return float("inf")
        shares = len(each) * np.einsum("v,rvp->rp", np.concatenate(pulls), each)
        return gradient_noise(list(shares), np.asarray(self.prior, float) ** -0.5).ratio

    def trained(self, gradient: Any) -> np.ndarray:
        """What of rows of gradients by the whole energy belongs to the parameters [rows parameters]."""
        kept = jax.tree.map(lambda x, g: None if x is None else g, self.given, gradient, is_leaf=lambda x: x is None)
        return np.concatenate([np.asarray(x, float).reshape(len(x), -1) for x in jax.tree.leaves(kept)], axis=1)

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
        found = []
        for mixture in state.mixtures.values():
            try:
                found.append(float(max_step(energy, direction, mixture, ess=self.settings.ess)))
            except ValueError:  # parameters that these atoms do not feel
                found.append(1.0)
        return found


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
def _melting_row(params, unravel, fixed, solid: Mixture, liquid: Mixture) -> Array:
    return jax.grad(lambda p: melting_temperature(eqx.combine(unravel(p), fixed), solid, liquid, anchor=0))(params)


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


def _parts(target: Target) -> dict[str, tuple[AbstractStatic, Any]]:
    """The parts of a total, and where each belongs."""
    if not isinstance(target.observable, Total):
        return {}
    pairs = zip(target.observable.parts, target.places, strict=True)
    return {f"{target.name}, part {i}": pair for i, pair in enumerate(pairs)}


def _size(x: Array) -> float:
    size = float(jnp.sqrt(jnp.mean(jnp.asarray(x, float) ** 2)))
    return size if size > 0.0 else 1.0
