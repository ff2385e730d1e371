"""Graphs: atoms with their neighbors, in one box or in padded batches of many."""

from jaxmlip.graph.batch import batch as batch
from jaxmlip.graph.batch import pad as pad
from jaxmlip.graph.blocks import Blocks as Blocks
from jaxmlip.graph.blocks import blocks as blocks
from jaxmlip.graph.graph import Graph as Graph
from jaxmlip.graph.graph import safe_norm as safe_norm
from jaxmlip.graph.neighbors import Neighbors as Neighbors
from jaxmlip.graph.neighbors import allocate as allocate
from jaxmlip.graph.neighbors import check as check
from jaxmlip.graph.neighbors import grow as grow
from jaxmlip.graph.neighbors import rebuild as rebuild
from jaxmlip.graph.neighbors import skin_used as skin_used
from jaxmlip.graph.neighbors import to_graph as to_graph
from jaxmlip.graph.neighbors import update as update
