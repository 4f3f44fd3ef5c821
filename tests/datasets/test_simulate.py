import numpy as np
import pytest

from bioverse_sc.datasets import SimulationConfig, simulate_counts

RNG = np.random.default_rng(0)
PROFILES = RNG.gamma(0.7, size=(6, 300)) + 1e-3
TYPES = np.array([0, 0, 1, 1, 2, 3])
SETS = np.array(["a", "b", "a", "b", "a", "b"])
PLAIN = SimulationConfig(
    depth=(5000.0, 5000.0),
    ambient=(0.0, 0.0),
    gene_effect_sd=0.0,
    batch_effect_sd=(0.0, 0.0),
    style=(0.0, 0.0),
    mix=(0.0, 0.0),
    panel_share=0.0,
)


def simulate(chosen, config=None, seed=0):
    return simulate_counts(PROFILES, TYPES, SETS, np.asarray(chosen), config=config, seed=seed)


def test_equal_seeds_give_equal_counts():
    chosen = RNG.integers(6, size=150)
    one, two, other = (simulate(chosen, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.toarray(), two.toarray())
    assert (one != other).nnz
    assert (one.format, one.dtype, one.shape) == ("csr", np.float32, (150, 300))


def test_the_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    simulate([0, 1])
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_counts_are_whole_and_not_negative():
    values = simulate(RNG.integers(6, size=100)).toarray()
    assert (values == np.round(values)).all()
    assert values.min() >= 0


def test_the_mean_is_the_profile():
    n = 400
    mean = simulate(np.full(n, 4), PLAIN).toarray().mean(axis=0)
    expected = PROFILES[4] / PROFILES[4].sum() * 5000
    # Poisson: the standard error of the mean is sqrt(expected / n)
    assert (np.abs(mean - expected) < 5 * np.sqrt(expected / n) + 1e-3).all()
    assert np.corrcoef(mean, expected)[0, 1] > 0.999


def test_ambient_counts_come_from_the_mean_of_the_set():
    config = SimulationConfig(**{**vars(PLAIN), "ambient": (1.0, 1.0)})
    mean = simulate(np.full(400, 4), config).toarray().mean(axis=0)
    shares = PROFILES / PROFILES.sum(axis=1, keepdims=True)
    expected = shares[SETS == "a"].mean(axis=0) * 5000
    assert (np.abs(mean - expected) < 5 * np.sqrt(expected / 400) + 1e-3).all()


def test_mixing_is_between_profiles_of_one_type():
    config = SimulationConfig(**{**vars(PLAIN), "mix": (1.0, 1.0)})
    counts = simulate(np.full(300, 0), config).toarray()
    shares = np.log(PROFILES / PROFILES.sum(axis=1, keepdims=True))
    nearest = [int(np.argmax([row @ shares[i] for i in range(6)])) for row in counts]
    assert set(nearest) == {0, 1}
    assert 0.3 < np.mean(nearest) < 0.7


@pytest.mark.parametrize("depth", [(200.0, 400.0), (3000.0, 9000.0)])
def test_depths_lie_in_their_range(depth):
    config = SimulationConfig(**{**vars(PLAIN), "depth": depth})
    totals = simulate(RNG.integers(6, size=400), config).toarray().sum(axis=1)
    assert totals.min() > depth[0] - 6 * np.sqrt(depth[0])
    assert totals.max() < depth[1] + 6 * np.sqrt(depth[1])
    middle = np.median(totals)
    assert abs(np.log(middle / np.sqrt(depth[0] * depth[1]))) < 0.15, "log-uniform"


def test_cells_of_a_group_share_a_panel():
    config = SimulationConfig(
        **{**vars(PLAIN), "panel_share": 1.0, "panel_genes": (20, 60), "batch_cells": 32, "depth": (2e5, 2e5)}
    )
    counts = simulate(RNG.integers(6, size=96), config).toarray()
    panels = [set(np.flatnonzero(counts[i : i + 32].sum(axis=0))) for i in (0, 32, 64)]
    assert all(15 <= len(panel) <= 60 for panel in panels)
    assert len({frozenset(p) for p in panels}) == 3


def test_without_panels_no_gene_is_missing():
    counts = simulate(np.full(200, 0), SimulationConfig(**{**vars(PLAIN), "depth": (1e5, 1e5)})).toarray()
    assert (counts.sum(axis=0) > 0).all()


def test_gene_effects_make_counts_over_dispersed():
    config = SimulationConfig(**{**vars(PLAIN), "gene_effect_sd": 0.5})
    ratios = [
        np.var(c, axis=0) / np.mean(c, axis=0)
        for c in (simulate(np.full(400, 2), k).toarray() for k in (PLAIN, config))
    ]
    high = PROFILES[2] > np.quantile(PROFILES[2], 0.8)
    assert 0.8 < np.median(ratios[0][high]) < 1.2
    assert np.median(ratios[1][high]) > 2
