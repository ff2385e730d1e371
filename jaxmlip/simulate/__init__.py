"""Simulation: integrators and minimizers as `init`/`step` pairs, and the loop that runs them."""

from jaxmlip.simulate.checkpoint import load_state as load_state
from jaxmlip.simulate.checkpoint import save_state as save_state
from jaxmlip.simulate.errors import Interrupted as Interrupted
from jaxmlip.simulate.errors import SimulationError as SimulationError
from jaxmlip.simulate.frames import Frame as Frame
from jaxmlip.simulate.frames import Writer as Writer
from jaxmlip.simulate.guards import Guards as Guards
from jaxmlip.simulate.integrator import AbstractIntegrator as AbstractIntegrator
from jaxmlip.simulate.metadynamics import run_metadynamics as run_metadynamics
from jaxmlip.simulate.metadynamics import with_energy as with_energy
from jaxmlip.simulate.minimize import FIRE as FIRE
from jaxmlip.simulate.minimize import Relaxation as Relaxation
from jaxmlip.simulate.minimize import minimize as minimize
from jaxmlip.simulate.npt import NPT as NPT
from jaxmlip.simulate.nve import NVE as NVE
from jaxmlip.simulate.nvt import Langevin as Langevin
from jaxmlip.simulate.nvt import NoseHoover as NoseHoover
from jaxmlip.simulate.run import run as run
from jaxmlip.simulate.state import State as State
from jaxmlip.simulate.state import thermal_momenta as thermal_momenta
