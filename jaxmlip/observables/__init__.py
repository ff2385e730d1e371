"""Observables: what one measures, from arrays; who made the samples does not matter."""

from jaxmlip.observables.thermo import kinetic_energy as kinetic_energy
from jaxmlip.observables.thermo import pressure as pressure
from jaxmlip.observables.thermo import pressure_tensor as pressure_tensor
from jaxmlip.observables.thermo import temperature as temperature
