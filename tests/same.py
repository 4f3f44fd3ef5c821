"""Deep comparison of AnnData objects: byte for byte."""

import numpy as np
import pandas as pd
from scipy.sparse import issparse


def same(one, two):
    """Whether two values of any slot are equal in type, shape, dtype and content."""
    if issparse(one) or issparse(two):
        return (
            type(one) is type(two)
            and one.shape == two.shape
            and one.dtype == two.dtype
            and all(same(getattr(one, part), getattr(two, part)) for part in ("data", "indices", "indptr"))
        )
    if isinstance(one, pd.DataFrame | pd.Series | pd.Index):
        try:
            check = pd.testing.assert_index_equal if isinstance(one, pd.Index) else None
            check = check or (
                pd.testing.assert_frame_equal if isinstance(one, pd.DataFrame) else pd.testing.assert_series_equal
            )
            check(one, two, check_exact=True)
        except AssertionError:
            return False
        return True
    if hasattr(one, "keys"):
        return set(one.keys()) == set(two.keys()) and all(same(one[k], two[k]) for k in one.keys())
    if isinstance(one, np.ndarray) and one.dtype.kind != "O" and one.dtype.names is None:
        equal = np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
        return isinstance(two, np.ndarray) and one.dtype == two.dtype and equal
    if isinstance(one, np.ndarray):
        return isinstance(two, np.ndarray) and one.tolist() == two.tolist()
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return type(one) is type(two) and one == two


def differences(one, two):
    """Slots of two AnnData objects that differ or stand in one of them only: ``{"obs['x']", "X", ...}``."""
    found = set()
    if not same(one.X, two.X):
        found.add("X")
    for name in ("obs_names", "var_names"):
        if not same(getattr(one, name), getattr(two, name)):
            found.add(name)
    for name in ("obs", "var", "uns", "obsm", "varm", "obsp", "varp", "layers"):
        a, b = getattr(one, name), getattr(two, name)
        for key in set(a.keys()) | set(b.keys()):
            if key not in a or key not in b or not same(a[key], b[key]):
                found.add(f"{name}[{key!r}]")
    if (one.raw is None) != (two.raw is None):
        found.add("raw")
    elif one.raw is not None and not (same(one.raw.X, two.raw.X) and same(one.raw.var, two.raw.var)):
        found.add("raw")
    return found
