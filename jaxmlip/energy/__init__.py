"""Energies: pure functions from a graph to the energy of each atom. They add; their derivatives are exact."""

from jaxmlip.energy.base import AbstractEnergy as AbstractEnergy
from jaxmlip.energy.base import Scaled as Scaled
from jaxmlip.energy.base import Sum as Sum
from jaxmlip.energy.base import SystemCheck as SystemCheck
from jaxmlip.energy.base import check_cutoff as check_cutoff
from jaxmlip.energy.base import check_elements as check_elements
from jaxmlip.energy.base import check_system as check_system
from jaxmlip.energy.charges import AbstractCharges as AbstractCharges
from jaxmlip.energy.charges import AtomCharges as AtomCharges
from jaxmlip.energy.charges import ModelCharges as ModelCharges
from jaxmlip.energy.charges import SpeciesCharges as SpeciesCharges
from jaxmlip.energy.derivatives import Derivatives as Derivatives
from jaxmlip.energy.derivatives import energy_forces as energy_forces
from jaxmlip.energy.derivatives import energy_forces_stress as energy_forces_stress
from jaxmlip.energy.derivatives import energy_forces_virial as energy_forces_virial
from jaxmlip.energy.derivatives import hessian as hessian
from jaxmlip.energy.derivatives import hessian_vector_product as hessian_vector_product
from jaxmlip.energy.derivatives import system_energies as system_energies
from jaxmlip.energy.ewald import Ewald as Ewald
from jaxmlip.energy.ewald_plan import EwaldPlan as EwaldPlan
from jaxmlip.energy.ewald_plan import plan_ewald as plan_ewald
from jaxmlip.energy.pair import LennardJones as LennardJones
from jaxmlip.energy.references import AtomicReferences as AtomicReferences
from jaxmlip.energy.zbl import ZBL as ZBL
