"""Data that come with the package: cells drawn from reference profiles, and everyday sentences."""

from bioverse_sc.datasets._everyday import everyday_texts
from bioverse_sc.datasets._simulate import SimulationConfig, simulate_counts

__all__ = ["SimulationConfig", "everyday_texts", "simulate_counts"]
