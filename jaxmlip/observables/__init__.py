"""Observables: what one measures, from arrays; who made the samples does not matter."""

from jaxmlip.observables.dynamics import diffusion_coefficient as diffusion_coefficient
from jaxmlip.observables.dynamics import green_kubo as green_kubo
from jaxmlip.observables.dynamics import mean_squared_displacement as mean_squared_displacement
from jaxmlip.observables.dynamics import velocity_autocorrelation as velocity_autocorrelation
from jaxmlip.observables.heat import check_local as check_local
from jaxmlip.observables.heat import heat_flux as heat_flux
from jaxmlip.observables.heat import images_within as images_within
from jaxmlip.observables.statistics import Estimate as Estimate
from jaxmlip.observables.statistics import average as average
from jaxmlip.observables.statistics import block_average as block_average
from jaxmlip.observables.statistics import drift as drift
from jaxmlip.observables.statistics import statistical_inefficiency as statistical_inefficiency
from jaxmlip.observables.structure import coordination as coordination
from jaxmlip.observables.structure import pair_counts as pair_counts
from jaxmlip.observables.structure import radial_distribution as radial_distribution
from jaxmlip.observables.structure import smooth_pair_counts as smooth_pair_counts
from jaxmlip.observables.structure import structure_factor as structure_factor
from jaxmlip.observables.structure import wave_indices as wave_indices
from jaxmlip.observables.thermo import kinetic_energy as kinetic_energy
from jaxmlip.observables.thermo import pressure as pressure
from jaxmlip.observables.thermo import pressure_tensor as pressure_tensor
from jaxmlip.observables.thermo import temperature as temperature
