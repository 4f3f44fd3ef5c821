import anndata as ad
import numpy as np
import pandas as pd
import pytest

import bioverse_sc as bsc
from bioverse_sc._keys import Keys
from bioverse_sc._results import Results, Slot

LABEL, VECTORS = Slot("obs", "bioverse_label"), Slot("obsm", "X_bioverse", "soft tokens")


@pytest.fixture
def adata():
    return ad.AnnData(obs=pd.DataFrame(index=[f"cell {i}" for i in range(6)]))


def label(adata, values="AABBCC"):
    return pd.Series(pd.Categorical(list(values)), index=adata.obs_names)


@pytest.fixture
def written(adata):
    vectors = np.arange(12, dtype=np.float32).reshape(6, 2)
    Results(adata, Keys()).write("annotate", {LABEL: label(adata), VECTORS: vectors}, {"model": "m"})
    return adata


def check(adata, **kwargs):
    Results(adata, Keys(), **kwargs).check([LABEL, VECTORS])


def test_what_was_written_may_be_written_again(written, tmp_path):
    check(written)
    check(written[::-1].copy())
    check(written[[4, 1]].copy())
    written.write_h5ad(tmp_path / "x.h5ad")
    check(ad.read_h5ad(tmp_path / "x.h5ad"))
    written.obs_names = [f"sample 1: {name}" for name in written.obs_names]
    check(written)


@pytest.mark.parametrize("slot", [LABEL, VECTORS], ids=str)
def test_a_change_by_hand_is_an_error_that_says_how_many_rows(slot, written):
    if slot is LABEL:
        written.obs["bioverse_label"] = label(written, "AABBCA")
    else:
        written.obsm["X_bioverse"][5] += 1
    with pytest.raises(ValueError, match=r"changed since .* in 1 of 6 rows.*key_added='another'.*overwrite=True"):
        check(written)
    check(written, overwrite=True)


def test_what_somebody_else_wrote_is_an_error(adata):
    adata.obsm["X_bioverse"] = np.ones((6, 512))
    with pytest.raises(ValueError, match=r"obsm\['X_bioverse'\] is there already.*key_added='another'.*overwrite=True"):
        check(adata)
    check(adata, overwrite=True)


def test_another_stem_has_slots_of_its_own(adata):
    adata.obs["bioverse_label"] = "mine"
    keys = Keys("other")
    results = Results(adata, keys)
    slot = Slot("obs", keys.label)
    results.check([slot])
    results.write("annotate", {slot: label(adata)}, {})
    assert adata.obs["bioverse_label"].tolist() == ["mine"] * 6


def test_a_foreign_record_is_an_error(adata):
    adata.uns["bioverse"] = "my notes"
    with pytest.raises(ValueError, match=r"\.uns\['bioverse'\] holds a str.*key_added='another'"):
        check(adata)


def test_the_record_of_a_step_survives_that_of_another_slot(written):
    """As with two encoders: each has a slot, and both are of the step embed."""
    results = Results(written, Keys())
    results.write(
        "annotate", {Slot("obs", "bioverse_confidence"): pd.Series(0.5, index=written.obs_names)}, {"model": "n"}
    )
    check(written)
    assert results.made_by("annotate")["model"] == "n"


def test_new_vectors_outdate_the_soft_tokens_and_keep_their_signature(adata):
    results = Results(adata, Keys())
    results.write("align", {VECTORS: np.ones((6, 2))}, {"model": "m"})
    results.write("embed", {}, {"encoder": "scgpt"})
    assert results.made_by("align") == {}
    check(adata)


def test_what_was_made_from_the_vectors_before_is_said_and_the_same_once_more_outdates_nothing(adata, log):
    results = Results(adata, Keys())
    content = np.arange(6, dtype=np.uint64)
    results.write("embed", {}, {"content": content})
    results.write("align", {}, {"content": content})
    for step in ("annotate", "evidence", "score", "describe"):
        results.write(step, {}, {"model": "m"})
    with bsc.settings.override(verbosity="info"):
        results.write("embed", {}, {"content": content.copy()})
        assert not log
        results.write("embed", {}, {"content": content + 1})
    (record,) = log
    assert "out of date now: align, annotate, evidence, score, describe" in record.getMessage()
    assert all(not results.made_by(step) for step in ("align", "annotate", "evidence", "score", "describe"))
    # other slots may need it to be read
    assert results.stored_of("annotate")["model"] == "m"


def test_some_of_the_rows_in_another_order_are_the_same(adata):
    content = np.arange(6, dtype=np.uint64)
    Results(adata, Keys()).write("embed", {}, {"content": content})
    Results(adata, Keys()).write("align", {}, {"content": content})
    Results(adata, Keys()).write("annotate", {}, {"model": "m"})
    few = adata[[4, 1]].copy()
    Results(few, Keys()).write("embed", {}, {"content": content[[4, 1]]})
    assert Results(few, Keys()).made_by("align")
    assert Results(few, Keys()).made_by("annotate")


def test_finish_lines_name_the_slots(adata):
    lines = Results(adata, Keys()).write("align", {VECTORS: np.ones((6, 2))}, {})
    assert lines == ["'X_bioverse', soft tokens (adata.obsm)", "'bioverse', align (.uns)"]
