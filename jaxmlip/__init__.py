"""Differentiable molecular dynamics and machine-learned interatomic potentials in pure JAX.

Sub-packages: `units`, `system`, `io`, `graph`, `energy`, `models`, `data`, `observables`, `simulate`, `properties`,
`learn`, `interfaces`, `testing`, `cli`. Importing this package does no work.
"""

__version__ = "0.1.0"
