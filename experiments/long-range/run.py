"""What long-range electrostatics add to a short-range model: dimers pulled apart, and gold on magnesium oxide.

`python run.py` trains every variant and evaluates it; `--quick` evaluates the committed parameters.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmlip.data import Dataset, read_dataset, statistics
from jaxmlip.energy import AbstractCharges, Ewald, plan_ewald
from jaxmlip.graph import blocks
from jaxmlip.learn import TrainSettings, evaluate, fit
from jaxmlip.learn.charges import mean_charges
from jaxmlip.learn.prior import subtract
from jaxmlip.models import pretrained
from jaxmlip.models.ace import ACE, ACEConfig
from jaxmlip.models.charges import electrostatics

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("JAXMLIP_DATA", HERE.parents[2] / "shared" / "data")) / "datasets"
VARIANTS = ("short_range", "fixed", "predicted", "latent")
ACCURACY = 1e-3
CUTOFFS = {"dimers": 5.0, "surface": 4.5}

# The dimers: charges of both fragments [e], and where the second begins. The labels of number 4 name them the other way
# round: its second fragment is the acetate of number 0, by composition and energy.
DIMERS = {0: (1, -1, 16), 2: (1, 0, 16), 3: (0, 0, 9), 4: (0, -1, 9)}
NAMES = {0: "cation, anion", 2: "cation, ethane", 3: "acetamide, ethane", 4: "acetamide, anion"}
FORMAL = {"Mg": 0.36, "O": -0.36, "Al": 0.36, "Au": 0.0}  # the mean Hirshfeld charges of the oxide, made neutral

COMMON = TrainSettings(learning_rate=0.01, energy_weight=3.0, late_energy_weight=30.0, max_shapes=1, evaluations=2)
SETTINGS = {
    "dimers": dataclasses.replace(COMMON, steps=3000, batch_size=4),
    "surface": dataclasses.replace(COMMON, steps=300, batch_size=2),
}


class FragmentCharges(AbstractCharges):
    """Formal charges of the fragments of a dimer, each spread evenly over its atoms; dimers differ in their size."""

    table: np.ndarray
    cutoff: float = eqx.field(static=True)
    elements: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, dimers):
        self.table = np.zeros((1 + max(len(d) for d in dimers.values()),) * 2)
        for number, frame in dimers.items():
            first, second, border = DIMERS[number]
            spread = [first / border] * border + [second / (len(frame) - border)] * (len(frame) - border)
            self.table[len(frame), : len(frame)] = spread
        self.cutoff, self.elements = 0.0, None

    def __call__(self, graph):
        atoms = graph.sum_atoms(jnp.ones_like(graph.positions[:, 0])).astype(jnp.int32)
        table = jnp.asarray(self.table, graph.positions.dtype)
        return table[atoms[graph.system_index], blocks(graph, len(self.table) - 1).slot]

    def total(self, system):
        return float(np.sum(self.table[system.numbers.shape[-1]]))


@functools.cache
def dimers():
    """Training and test frames, with their distances [Å]: ten nearer and three farther ones of each dimer."""
    parts = {"train": [], "test": []}
    for number, (first, second, _) in DIMERS.items():
        for half, records in parts.items():
            path = DATA / "nc_licence" / "les" / f"charged_dimer_id{number}_{half}.xyz.xz"
            charged = {"charge": float(first + second), "config_type": str(number)}
            records += [dataclasses.replace(record, **charged) for record in read_dataset(path)]
    return Dataset(parts["train"]), Dataset(parts["test"])


@functools.cache
def surface():
    """Of each kind (doped or not, gold upright or flat) the second frame of every four to test with; 13 to train."""
    kinds = {}
    for record in read_dataset(DATA / "n2p2" / "au2_mgo_4g_subset.xyz.xz"):
        gold = record.positions[record.numbers == 79]
        kind = f"{'doped' if 13 in record.numbers else 'pure'} {'flat' if np.ptp(gold[:, 2]) < 1.0 else 'upright'}"
        kinds.setdefault(kind, []).append(dataclasses.replace(record, config_type=kind))
    train = [record for records in kinds.values() for i, record in enumerate(records) if i % 4 != 1]
    test = [record for records in kinds.values() for i, record in enumerate(records) if i % 4 == 1]
    return Dataset(train), Dataset(test)


SETS = {"dimers": dimers, "surface": surface}


def distance(record):
    """Between the nearest two atoms of the fragments of a dimer [Å]."""
    border = DIMERS[int(record.config_type)][2]
    first, second = record.positions[:border], record.positions[border:]
    return float(np.linalg.norm(first[:, None] - second[None], axis=-1).min())


def fixed_term(name):
    """Electrostatics of charges that nobody trains."""
    train, test = SETS[name]()
    records = (*train, *test)
    systems = [record.system for record in records]
    if name == "surface":
        return electrostatics(
            FORMAL, systems, cutoff=CUTOFFS[name], accuracy=ACCURACY, margin=1.0, key=jax.random.key(0)
        )
    plan = plan_ewald(systems, cutoff=CUTOFFS[name], accuracy=ACCURACY, margin=1.0)
    charges = FragmentCharges({int(record.config_type): record for record in records})
    return Ewald(charges, plan, background=True)


def make(name, variant):
    """The energy to train: the same short-range model, and what the variant adds."""
    train, test = SETS[name]()
    cutoff = CUTOFFS[name]
    found = statistics(train, cutoff)
    sizes = {"cutoff": cutoff, "degree": 2, "radial": 6, "channels": 8, "hidden": 16}
    scales = {"mean_neighbors": found.neighbors, "energy_scale": found.force_rms}
    model = ACE(ACEConfig.preset("fast", train.elements, **sizes, **scales), key=jax.random.key(0))
    if variant in ("short_range", "fixed"):
        return model
    systems = [record.system for record in (*train, *test)]
    return model + electrostatics(
        variant, systems, cutoff=cutoff, mean_neighbors=found.neighbors, start=mean_charges(train), accuracy=ACCURACY,
        margin=1.0, background=True, key=jax.random.key(1),
    )  # fmt: skip


def parameters(name, variant):
    return HERE / "parameters" / f"{name}_{variant}.jaxmlip"


def train(name, variant, steps):
    """Train one variant, and write its parameters with the minutes that it took."""
    data, _ = SETS[name]()
    settings = dataclasses.replace(SETTINGS[name], steps=steps or SETTINGS[name].steps)
    if variant == "fixed":
        data, _ = subtract(data, fixed_term(name), dtype=np.float64)
    if variant == "predicted" and all(record.charges is not None for record in data):
        settings = dataclasses.replace(settings, charge_weight=1.0)
    began = time.monotonic()
    result = fit(make(name, variant), data, settings=settings)
    minutes = (time.monotonic() - began) / 60.0
    parameters(name, variant).parent.mkdir(exist_ok=True)
    pretrained.save(parameters(name, variant), result.energy, minutes=minutes, steps=settings.steps)


def load(name, variant):
    energy = pretrained.load(parameters(name, variant))
    return energy + fixed_term(name) if variant == "fixed" else energy


def test(name, variant):
    """The errors on the test half, and by kind of frame."""
    _, data = SETS[name]()
    report = evaluate(load(name, variant), data, batch_atoms=110, dtype=np.float64, max_shapes=1)
    rows = {kind: {k: x for k, x in row.errors().items() if np.isfinite(x)} for kind, row in report.rows().items()}
    far = np.array([distance(r) > 2.0 * CUTOFFS[name] for r in data]) if name == "dimers" else np.ones(len(data), bool)
    rows["far"] = far_errors(report, far)
    rows["minutes"] = pretrained.metadata(parameters(name, variant))["minutes"]
    return rows


def far_errors(report, far):
    wrong = (report.forces - report.forces_label)[far[report.frame]]
    energy = (report.energy - report.energy_label)[far]
    return {"frames": int(far.sum()), "force_rmse": float(np.sqrt(np.mean(wrong**2))),
            "energy_rmse": float(np.sqrt(np.mean(energy**2)))}  # fmt: skip


def figure(path):
    """The binding curves: energies of all frames, less those of the nearest one of each dimer."""
    import matplotlib.pyplot as plt

    halves = dimers()
    data = halves[0] + halves[1]
    fig, axes = plt.subplots(2, 4, figsize=(13, 6), sharex="col", layout="constrained")
    styles = {"short_range": "C3s-", "fixed": "C1^-", "predicted": "C0v-", "latent": "C2o-"}
    reports = {
        variant: evaluate(load("dimers", variant), data, batch_atoms=110, dtype=np.float64) for variant in VARIANTS
    }
    for column, number in enumerate(DIMERS):
        here = [i for i, record in enumerate(data) if record.config_type == str(number)]
        here = sorted(here, key=lambda i: distance(data[i]))
        r = [distance(data[i]) for i in here]
        label = np.array([data[i].energy for i in here])
        top, bottom = axes[0, column], axes[1, column]
        top.plot(r, 1e3 * (label - label[0]), "kx-", label="reference")
        for variant, report in reports.items():
            energy = np.array([report.energy[i] * len(data[i]) for i in here])
            top.plot(r, 1e3 * (energy - label[0]), styles[variant], ms=3, lw=1, label=variant.replace("_", " "))
            forces = [report.frame == i for i in here]
            error = [np.sqrt(np.mean((report.forces[f] - report.forces_label[f]) ** 2)) for f in forces]
            bottom.semilogy(r, 1e3 * np.array(error), styles[variant], ms=3, lw=1)
        for axis in (top, bottom):
            axis.axvline(max(r[i] for i in range(len(r)) if here[i] < len(halves[0])) + 0.3, color="0.7", ls=":")
            axis.axvline(CUTOFFS["dimers"], color="0.7", lw=0.8)
        top.set_title(NAMES[number], fontsize=10)
        bottom.set_xlabel("nearest atoms of the fragments [Å]")
    axes[0, 0].set_ylabel("energy, the nearest frame is 0 [meV]")
    axes[1, 0].set_ylabel("force RMSE [meV/Å]")
    axes[0, 0].legend(fontsize=8)
    fig.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="evaluate the committed parameters")
    parser.add_argument("--evaluate", action="store_true", help="the same, and write results.json and binding.png")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--steps", type=int, help="of each training, instead of the usual number")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if not options.quick and not options.evaluate:
        for name in options.sets:
            for variant in options.variants:
                train(name, variant, options.steps)
    rows = {name: {variant: test(name, variant) for variant in VARIANTS} for name in SETS}
    result = {}
    for name, variants in rows.items():
        for variant, found in variants.items():
            result[f"{name}_force_rmse_{variant}_meV_A"] = found["all"]["force_rmse_meV_per_A"]
            result[f"{name}_energy_rmse_{variant}_meV_atom"] = found["all"]["energy_rmse_meV_per_atom"]
            if "charge_rmse_me" in found["all"]:
                result[f"{name}_charge_rmse_{variant}_me"] = found["all"]["charge_rmse_me"]
    for kind in ("force", "energy"):
        wrong = {variant: rows["dimers"][variant]["far"][f"{kind}_rmse"] for variant in VARIANTS}
        ratio = wrong["short_range"] / min(wrong[variant] for variant in VARIANTS[1:])
        result["far_error_ratio" if kind == "force" else "far_energy_error_ratio"] = ratio
    result["far_frames"] = rows["dimers"]["short_range"]["far"]["frames"]
    if not options.quick:
        figure(HERE / "binding.png")
        machine = f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
        (HERE / "results.json").write_text(json.dumps({"machine": machine, "rows": rows, **result}, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
