"""Properties of ground states: protocols from an energy to a number, differentiable by the parameters of the energy."""

from jaxmlip.properties.elastic import ElasticConstants as ElasticConstants
from jaxmlip.properties.elastic import bulk_modulus as bulk_modulus
from jaxmlip.properties.elastic import elastic_constants as elastic_constants
from jaxmlip.properties.elastic import stiffness_along as stiffness_along
from jaxmlip.properties.energies import barrier as barrier
from jaxmlip.properties.energies import cohesive_energy as cohesive_energy
from jaxmlip.properties.energies import find_saddle as find_saddle
from jaxmlip.properties.energies import isolated_energies as isolated_energies
from jaxmlip.properties.energies import make_vacancy as make_vacancy
from jaxmlip.properties.energies import relaxed_energy as relaxed_energy
from jaxmlip.properties.energies import vacancy_formation_energy as vacancy_formation_energy
from jaxmlip.properties.phonons import dynamical_matrix as dynamical_matrix
from jaxmlip.properties.phonons import force_constants as force_constants
from jaxmlip.properties.phonons import frequencies as frequencies
from jaxmlip.properties.stationary import StationaryPoint as StationaryPoint
from jaxmlip.properties.stationary import follow as follow
from jaxmlip.properties.stationary import refine as refine
from jaxmlip.properties.stationary import relax as relax
from jaxmlip.properties.strain import from_voigt as from_voigt
from jaxmlip.properties.strain import lattice_parameters as lattice_parameters
from jaxmlip.properties.strain import to_voigt as to_voigt
from jaxmlip.properties.supercell import Supercell as Supercell
from jaxmlip.properties.supercell import make_supercell as make_supercell
