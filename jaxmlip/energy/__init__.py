"""Energies: pure functions from a graph to the energy of each atom. They add; their derivatives are exact."""

from jaxmlip.energy.base import AbstractEnergy as AbstractEnergy
from jaxmlip.energy.base import Scaled as Scaled
from jaxmlip.energy.base import Sum as Sum
from jaxmlip.energy.base import check_cutoff as check_cutoff
from jaxmlip.energy.base import check_elements as check_elements
from jaxmlip.energy.derivatives import Derivatives as Derivatives
from jaxmlip.energy.derivatives import energy_forces as energy_forces
from jaxmlip.energy.derivatives import energy_forces_stress as energy_forces_stress
from jaxmlip.energy.derivatives import energy_forces_virial as energy_forces_virial
from jaxmlip.energy.derivatives import hessian as hessian
from jaxmlip.energy.derivatives import hessian_vector_product as hessian_vector_product
from jaxmlip.energy.derivatives import system_energies as system_energies
from jaxmlip.energy.eam import EAM as EAM
from jaxmlip.energy.pair import LennardJones as LennardJones
from jaxmlip.energy.references import AtomicReferences as AtomicReferences
from jaxmlip.energy.stillinger_weber import StillingerWeber as StillingerWeber
from jaxmlip.energy.tersoff import Tersoff as Tersoff
from jaxmlip.energy.zbl import ZBL as ZBL
