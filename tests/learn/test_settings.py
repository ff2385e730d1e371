"""Settings and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmlip.errors import UserError
from jaxmlip.learn import TrainSettings


def test_the_rate_warms_up_and_decays():
    settings = TrainSettings(learning_rate=0.1, warmup_steps=10, final_rate=0.01)
    rates = np.array([settings.rate(step, 110) for step in range(111)])
    assert np.allclose(rates[:10], 0.01 * np.arange(1, 11)) and np.isclose(rates[10], 0.1)
    assert np.all(np.diff(rates[10:]) < 0) and np.isclose(rates[-1], 0.001) and np.isclose(rates[60], 0.0505)
    assert settings.rate(500, None) == 0.1


def test_the_energy_weight_switches_late():
    settings = TrainSettings(energy_weight=1.0, late_energy_weight=20.0, switch_at=0.75)
    assert [settings.weights(s, 100).energy for s in (0, 74, 75, 99)] == [1.0, 1.0, 20.0, 20.0]
    assert settings.weights(10**6, None).energy == 1.0


def test_labels_follow_from_weights():
    assert TrainSettings().labels == ("energy", "forces")
    assert TrainSettings(energy_weight=0.0, late_energy_weight=0.0, stress_weight=1.0).labels == ("forces", "stress")


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"max_minutes": -1.0},
        {"learning_rate": float("nan")},
        {"ema_decay": 1.5},
        {"optimizer": "sgd"},
        {"dtype": "float16"},
        {"force_weight": -1.0},
        {"energy_weight": 0.0, "late_energy_weight": 0.0, "force_weight": 0.0},
        {"weight_decay": 0.1, "optimizer": "adam"},
        {"batch_size": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(UserError, match="`|weights"):
        TrainSettings(**changes)


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "muon"])
def test_every_optimizer_goes_downhill(name):
    params = {"matrices": jnp.broadcast_to(jnp.eye(8), (2, 8, 8)), "vector": jnp.ones(3)}
    optimizer = TrainSettings(optimizer=name, weight_decay=0.01 if name in ("adamw", "muon") else 0.0).build_optimizer()

    def loss(p):
        return jnp.sum((p["matrices"] - 0.1) ** 2) + jnp.sum((p["vector"] + 0.2) ** 2)

    @jax.jit
    def descend(carry, _):
        p, state = carry
        updates, state = optimizer.update(jax.grad(loss)(p), state, p)
        return (jax.tree.map(lambda x, u: x + 0.02 * u, p, updates), state), loss(p)

    _, losses = jax.lax.scan(descend, (params, optimizer.init(params)), length=250)
    assert losses[-1] < 0.1 * losses[0]
