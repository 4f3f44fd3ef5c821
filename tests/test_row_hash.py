import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from bioverse_sc._row_hash import bound_hashes, hash_rows, hash_sparse_rows, hash_texts

COUNTS = csr_matrix(np.random.default_rng(0).poisson(0.4, size=(40, 30)).astype(np.float32))
NAMES = hash_texts([f"gene {j}" for j in range(30)])


def test_the_order_of_columns_and_rows_does_not_matter():
    expected = hash_sparse_rows(COUNTS, NAMES)
    columns, rows = np.random.default_rng(1).permutation(30), np.random.default_rng(2).permutation(40)
    np.testing.assert_array_equal(hash_sparse_rows(COUNTS[rows][:, columns].tocsr(), NAMES[columns]), expected[rows])


def test_the_number_format_does_not_matter_and_the_columns_do():
    expected = hash_sparse_rows(COUNTS, NAMES)
    np.testing.assert_array_equal(hash_sparse_rows(COUNTS.astype(np.int64), NAMES), expected)
    filled = np.flatnonzero(np.diff(COUNTS.indptr))
    assert (hash_sparse_rows(COUNTS, NAMES[::-1].copy())[filled] != expected[filled]).all()


@given(st.integers(0, 39), st.integers(0, 29), st.sampled_from([0.5, 1.0, 7.0]))
def test_any_one_change_changes_its_row_alone(i, j, more):
    changed = COUNTS.toarray()
    changed[i, j] += more
    differ = hash_sparse_rows(csr_matrix(changed), NAMES) != hash_sparse_rows(COUNTS, NAMES)
    assert np.flatnonzero(differ).tolist() == [i]


def test_empty_rows_have_a_hash_like_others():
    found = hash_sparse_rows(csr_matrix((3, 30)), NAMES)
    assert len(set(found.tolist())) == 1
    rows = csr_matrix(np.array([[0, 1.0], [0, 0], [1, 0], [0, 0]]))
    first, empty, last, other_empty = hash_sparse_rows(rows, NAMES[:2])
    assert empty == other_empty
    assert len({first, empty, last}) == 3


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(pd.Categorical(["a", "b", "a", "c"])),
        pd.Series([0.1, np.nan, 0.3, 0.4], dtype=np.float32),
        pd.Series([1, 2, 3, 4]),
        pd.DataFrame({"one": [0.1, 0.2, 0.3, 0.4], "two": pd.Categorical(["x", "y", "x", ""])}),
        np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32),
        csr_matrix(np.eye(4)),
    ],
    ids=["category", "float", "integer", "frame", "array", "sparse"],
)
def test_every_kind_of_slot_has_hashes_of_its_rows(values):
    found = hash_rows(values)
    assert found.shape == (4,)
    assert found.dtype == np.uint64
    order = [2, 0, 3]
    part = values.iloc[order] if hasattr(values, "iloc") else values[order]
    np.testing.assert_array_equal(hash_rows(part), found[order])


def test_text_is_the_same_as_category_object_and_string():
    texts = ["B cell", "", "T cell"]
    expected = hash_rows(pd.Series(texts, dtype=object))
    for kind in ("category", "string"):
        np.testing.assert_array_equal(hash_rows(pd.Series(texts, dtype=kind)), expected)
    np.testing.assert_array_equal(hash_rows(pd.Series(["B cell", None, "T cell"], dtype=object)), expected)


def test_bound_hashes_tell_who_stands_with_whom():
    one, two = hash_texts(["a", "b"]), hash_texts(["x", "y"])
    assert set(bound_hashes(one, two)).isdisjoint(bound_hashes(one, two[::-1]))
    assert set(bound_hashes(one, two)).isdisjoint(bound_hashes(two, one))
