"""Simulation: integrators and minimizers as `init`/`step` pairs, and the loop that runs them."""

from jaxmlip.simulate.berendsen import Berendsen as Berendsen
from jaxmlip.simulate.berendsen import BerendsenNPT as BerendsenNPT
from jaxmlip.simulate.brownian import Brownian as Brownian
from jaxmlip.simulate.checkpoint import load_state as load_state
from jaxmlip.simulate.checkpoint import save_state as save_state
from jaxmlip.simulate.csvr import CSVR as CSVR
from jaxmlip.simulate.errors import Interrupted as Interrupted
from jaxmlip.simulate.errors import SimulationError as SimulationError
from jaxmlip.simulate.frames import Frame as Frame
from jaxmlip.simulate.frames import Writer as Writer
from jaxmlip.simulate.guards import Guards as Guards
from jaxmlip.simulate.integrator import AbstractIntegrator as AbstractIntegrator
from jaxmlip.simulate.minimize import FIRE as FIRE
from jaxmlip.simulate.minimize import Relaxation as Relaxation
from jaxmlip.simulate.minimize import minimize as minimize
from jaxmlip.simulate.mtk import MTK as MTK
from jaxmlip.simulate.npt import NPT as NPT
from jaxmlip.simulate.nve import NVE as NVE
from jaxmlip.simulate.nvt import Langevin as Langevin
from jaxmlip.simulate.nvt import NoseHoover as NoseHoover
from jaxmlip.simulate.run import run as run
from jaxmlip.simulate.schedule import AbstractSchedule as AbstractSchedule
from jaxmlip.simulate.schedule import Ramp as Ramp
from jaxmlip.simulate.state import State as State
from jaxmlip.simulate.state import thermal_momenta as thermal_momenta
