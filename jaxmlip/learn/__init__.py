"""Learning: losses, training, evaluation and checkpoints, for any energy."""

from jaxmlip.learn.cleaning import Suspects as Suspects
from jaxmlip.learn.cleaning import find_suspects as find_suspects
from jaxmlip.learn.evaluate import Report as Report
from jaxmlip.learn.evaluate import evaluate as evaluate
from jaxmlip.learn.linear import LinearFit as LinearFit
from jaxmlip.learn.linear import fit_linear as fit_linear
from jaxmlip.learn.loss import Loss as Loss
from jaxmlip.learn.loss import Weights as Weights
from jaxmlip.learn.noise import Likelihood as Likelihood
from jaxmlip.learn.noise import find_noise as find_noise
from jaxmlip.learn.noise import predict_noise as predict_noise
from jaxmlip.learn.noise import read_noise as read_noise
from jaxmlip.learn.settings import TrainSettings as TrainSettings
from jaxmlip.learn.step import Problem as Problem
from jaxmlip.learn.step import TrainState as TrainState
from jaxmlip.learn.step import init as init
from jaxmlip.learn.step import step as step
from jaxmlip.learn.train import FitResult as FitResult
from jaxmlip.learn.train import best_energy as best_energy
from jaxmlip.learn.train import fit as fit
