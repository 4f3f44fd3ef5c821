import numpy as np
import pytest

import bioverse_sc as bsc
from bioverse_sc._cache import ArrayCache, content_hash
from bioverse_sc.encoders.scgpt import ScGPTEncoder


def test_it_computes_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.arange(6.0).reshape(2, 3)

    cache = ArrayCache(tmp_path / "new")
    for _ in range(3):
        np.testing.assert_array_equal(cache.get(["a", 1], compute), np.arange(6.0).reshape(2, 3))
    assert len(calls) == 1
    cache.get(["a", 2], compute)
    assert len(calls) == 2


def test_without_a_folder_it_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ArrayCache(None).get(["a"], lambda: np.ones(2)).sum() == 2
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_cut_off_is_computed_again(tmp_path):
    cache = ArrayCache(tmp_path)
    cache.get(["a"], lambda: np.ones(100))
    file = next(tmp_path.rglob("*.npy"))
    for size in (0, 40, 300):
        file.write_bytes(file.read_bytes()[:size])
        assert cache.get(["a"], lambda: np.full(100, 2.0)).sum() == 200
    assert [f.suffix for f in tmp_path.rglob("*") if f.is_file()] == [".npy"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (["a", "b"], ["ab"]),
        ([1], [1.0]),
        ([np.zeros(4)], [np.zeros((2, 2))]),
        ([np.zeros(2, dtype=np.float32)], [np.zeros(1)]),
        ([["a", "b"]], [["a"], "b"]),
    ],
)
def test_other_content_has_another_key(one, two):
    assert content_hash(one) != content_hash(two)
    assert content_hash(one) == content_hash(list(one))


def test_cells_that_were_embedded_need_no_encoder(cells, tmp_path, monkeypatch):
    first, again, changed = cells.copy(), cells.copy(), cells.copy()
    bsc.tl.embed(first, cache=tmp_path)
    for needless in ("tokenize", "encode_tokens"):
        monkeypatch.setattr(ScGPTEncoder, needless, lambda *_, **__: pytest.fail("the encoder ran"))
    bsc.tl.embed(again, cache=tmp_path)
    np.testing.assert_array_equal(first.obsm["X_scgpt"], again.obsm["X_scgpt"])
    monkeypatch.undo()
    changed.X.data[:50] *= 3
    bsc.tl.embed(changed, cache=tmp_path)
    plain = changed.copy()
    bsc.tl.embed(plain)
    np.testing.assert_array_equal(plain.obsm["X_scgpt"], changed.obsm["X_scgpt"])
    assert not np.array_equal(first.obsm["X_scgpt"], changed.obsm["X_scgpt"])


@pytest.mark.parametrize(
    "setting", [{"max_length": 20}, {"gene_selection": "random", "seed": 3}, {"dtype": "bfloat16"}]
)
def test_other_settings_are_other_vectors(setting, cells, tmp_path):
    # fewer genes than the cells have, so that it matters which
    bsc.tl.embed(cells, cache=tmp_path, max_length=100)
    before = cells.obsm["X_scgpt"]
    bsc.tl.embed(cells, cache=tmp_path, **({"max_length": 100} | setting))
    assert not np.array_equal(before, cells.obsm["X_scgpt"])
