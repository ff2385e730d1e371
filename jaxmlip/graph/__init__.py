"""Graphs: atoms with their neighbors, in one box or in padded batches of many."""

from jaxmlip.graph.batch import batch as batch
from jaxmlip.graph.batch import pad as pad
from jaxmlip.graph.graph import Graph as Graph
from jaxmlip.graph.graph import safe_norm as safe_norm
