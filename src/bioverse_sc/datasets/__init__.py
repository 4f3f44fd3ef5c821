"""Data that the package makes or ships: cells simulated from reference profiles, and everyday sentences."""

from bioverse_sc.datasets._everyday import everyday_texts
from bioverse_sc.datasets._simulate import SimulationConfig, simulate_counts

__all__ = ["SimulationConfig", "everyday_texts", "simulate_counts"]
