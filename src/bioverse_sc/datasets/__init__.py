"""Simulated data: cells drawn from reference profiles."""

from bioverse_sc.datasets._simulate import SimulationConfig, simulate_counts

__all__ = ["SimulationConfig", "simulate_counts"]
