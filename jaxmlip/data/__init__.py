"""Data: labelled frames, their statistics, and padded batches of them."""

from jaxmlip.data.dataset import Dataset as Dataset
from jaxmlip.data.dataset import read_dataset as read_dataset
from jaxmlip.data.dataset import require_labels as require_labels
from jaxmlip.data.loader import Batch as Batch
from jaxmlip.data.loader import Labels as Labels
from jaxmlip.data.loader import Loader as Loader
from jaxmlip.data.statistics import Statistics as Statistics
from jaxmlip.data.statistics import find_references as find_references
from jaxmlip.data.statistics import statistics as statistics
