"""From samples to standard deviations: moments, distributions, pairs of states. Each check is one number of sigma."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
from scipy import stats

from jaxmlip import units


def of_mean(each: np.ndarray, exact: float) -> float:
    """Deviation of the mean over independent replicas from `exact`, as a normal deviate (Student's t converted)."""
    return of_difference(each.mean() - exact, each.std(ddof=1) / np.sqrt(len(each)), len(each))


def of_difference(difference: float, error: float, replicas: int) -> float:
    """A difference over its error from so many replicas, as a normal deviate of the same probability."""
    t = difference / error
    return to_sigma(2.0 * stats.t.sf(abs(t), replicas - 1)) * np.sign(t)


def to_sigma(p: float) -> float:
    """The normal deviate that is exceeded, on either side, with probability `p`."""
    return float(stats.norm.isf(0.5 * max(p, 1e-300)))


def inefficiency(x: np.ndarray) -> float:
    """Statistical inefficiency of a series [samples, replicas], from the correlation function of all replicas.

    Summed as long as pairs of neighbors are positive (Geyer, Stat. Sci. 7, 473 (1992), doi:10.1214/ss/1177011137): a
    correlation that swings about zero is not cut where it first crosses it.
    """
    x = x - x.mean()
    n = len(x)
    spectrum = np.fft.rfft(x, 2 * n, axis=0)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:n].mean(axis=1) / np.arange(n, 0, -1) / x.var()
    weighted = correlation * (1.0 - np.arange(n) / n)
    pairs = weighted[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    below = np.flatnonzero(pairs <= 0.0)
    return float(max(1.0, 2.0 * np.sum(pairs[: below[0] if len(below) else len(pairs)]) - 1.0))


def memory(x: np.ndarray) -> float:
    """The larger inefficiency of a series and of its squared deviations: an undamped oscillation forgets its phase long
    before its amplitude, which is what the width of a distribution is made of."""
    return max(inefficiency(x), inefficiency((x - x.mean()) ** 2))


def decorrelated(record: dict, names: tuple[str, ...]) -> dict:
    """Every g-th sample of each replica, replicas after each other; g is the longest memory among `names`."""
    stride = max(1, int(np.ceil(max(memory(record[name]) for name in names))))
    return {name: x[::stride].T.ravel() for name, x in record.items()} | {"stride": stride}


def kinetic(record: dict, dof: int, temperature: float) -> dict[str, float]:
    """Mean, variance and distribution (Kolmogorov-Smirnov) of the kinetic energy against the gamma distribution."""
    k = 2.0 * record["kinetic"] / (units.kB * temperature)
    free = 2.0 * decorrelated(record, ("kinetic",))["kinetic"] / (units.kB * temperature)
    return {
        "kinetic mean": of_mean(k.mean(axis=0), dof),
        "kinetic variance": of_mean(((k - dof) ** 2).mean(axis=0), 2.0 * dof),
        "kinetic distribution": to_sigma(stats.kstest(free, "chi2", (dof,)).pvalue),
    }


def equipartition(record: dict, masses: np.ndarray, dof: int, temperature: float) -> dict[str, float]:
    """Mean kinetic energy of the lighter atoms: 3/2 kT each, less their share of the center of mass where it is at
    rest (for a mass m of a total M, m/M of it)."""
    light = masses[masses < masses.mean() - 1e-6]
    count = 3.0 * len(light) - (3 * len(masses) - dof) * light.sum() / masses.sum()
    k = 2.0 * record["light"] / (units.kB * temperature)
    return {"light atoms": of_mean(k.mean(axis=0), count)}


def physical(record: dict, natoms: int, dof: int, temperature: float, pressure: float | None):
    """Decorrelated samples as physical_validation wants them."""
    import physical_validation as pv

    free = decorrelated(
        record, ("kinetic", "potential", "volume") if pressure is not None else ("kinetic", "potential")
    )
    unit = pv.data.UnitData(
        kb=units.kB,
        energy_conversion=96.48533212331,
        length_conversion=0.1,
        volume_conversion=1e-3,
        temperature_conversion=1.0,
        pressure_conversion=1.602176634e6,
        time_conversion=1.0 / units.ps,
    )
    ensemble = {"natoms": natoms, "temperature": temperature}
    ensemble |= {"volume": float(free["volume"][0])} if pressure is None else {"pressure": pressure}
    return pv.data.SimulationData(
        units=unit,
        ensemble=pv.data.EnsembleData("NVT" if pressure is None else "NPT", **ensemble),
        system=pv.data.SystemData(
            natoms=natoms, nconstraints=0, ndof_reduction_tra=3 * natoms - dof, ndof_reduction_rot=0
        ),
        observables=pv.data.ObservableData(
            kinetic_energy=free["kinetic"],
            potential_energy=free["potential"],
            total_energy=free["kinetic"] + free["potential"],
            volume=free["volume"],
        ),
    )


def validated_kinetic(data) -> float:
    """`physical_validation.kinetic_energy.distribution`, strict: its p-value in sigma."""
    import physical_validation as pv

    with _quiet():
        return to_sigma(pv.kinetic_energy.distribution(data, strict=True, verbosity=0, data_is_uncorrelated=True))


def validated_pair(one, two) -> float:
    """`physical_validation.ensemble.check` of two states: the worst of its deviations in sigma.

    Distributions that do not overlap, where those of the right ensemble do, are as wrong as a number here can be.
    """
    import physical_validation as pv

    with _quiet():
        try:
            found = pv.ensemble.check(one, two, verbosity=0, data_is_uncorrelated=True, bootstrap_seed=1)
        except pv.util.error.InputError as error:
            if "No overlap" not in str(error):
                raise
            return to_sigma(0.0)
    return float(np.max(np.abs(found)))


@contextlib.contextmanager
def _quiet():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
