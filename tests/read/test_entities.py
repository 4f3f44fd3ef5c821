import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from bioverse_sc.encoders import Encoder
from bioverse_sc.encoders.esm2 import Esm2Encoder
from bioverse_sc.read import Entities
from tests.encoders.entities import write_esm


def entity_vectors(adata, encoder, *, layer=None, batch_size=None):
    return Entities(adata, encoder.mod, layer=layer).vectors(encoder, batch_size=batch_size)


SEQUENCES = ["MKTAYIAKQR", "GGGSS", "MLSDEDFKAVFG"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return Esm2Encoder.from_pretrained(write_esm(tmp_path_factory.mktemp("esm")))


def entities(sequences):
    obs = pd.DataFrame({"sequence": sequences}, index=[f"p{i}" for i in range(len(sequences))])
    return ad.AnnData(obs=obs)


def antibodies(abundances):
    var = pd.DataFrame({"sequence": SEQUENCES}, index=["CD3", "CD4", "CD8"])
    return ad.AnnData(np.asarray(abundances, dtype=np.float32), var=var)


def test_the_encoder_is_one(encoder):
    assert isinstance(encoder, Encoder)


def test_entities_get_their_own_vectors_and_repeats_are_embedded_once(encoder, monkeypatch):
    sequences = [SEQUENCES[i] for i in (0, 1, 0, 2, 1, 0)]
    expected = encoder.encode(sequences)
    seen = []
    real = Esm2Encoder.encode
    monkeypatch.setattr(
        Esm2Encoder, "encode", lambda self, texts, **kw: seen.append(list(texts)) or real(self, texts, **kw)
    )
    found, source = entity_vectors(entities(sequences), encoder)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert seen == [SEQUENCES]
    assert source == "obs['sequence']"


@pytest.mark.parametrize("sparse", [False, True])
def test_features_are_weighted_by_abundance(encoder, sparse):
    weights = np.array([[1, 0, 3], [0, 0, 0], [5, 5, 5], [0, 2, 0]], dtype=np.float32)
    adata = antibodies(weights)
    if sparse:
        adata.X = csr_matrix(adata.X)
    adata.layers["counts"] = adata.X * 2
    features = encoder.encode(SEQUENCES)
    expected = np.stack([(features * w[:, None]).sum(0) / max(w.sum(), 1) for w in weights])
    for layer in (None, "counts"):
        found, source = entity_vectors(adata, encoder, layer=layer)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert source.startswith("var['sequence'], weighted by")
    assert not found[1].any()


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_abundances_that_cannot_weigh_are_an_error(encoder, bad):
    with pytest.raises(ValueError, match=r"negative or not finite.*layer='counts'"):
        entity_vectors(antibodies([[1, bad, 2]]), encoder)


def test_a_missing_column_says_where_it_was_looked_for(encoder):
    adata = ad.AnnData(obs=pd.DataFrame({"seq": ["MK"]}, index=["a"]))
    with pytest.raises(KeyError, match=r"no column 'sequence' in \.obs .*\['seq'\]"):
        entity_vectors(adata, encoder)
    with pytest.raises(KeyError, match="no layer 'adt'"):
        entity_vectors(antibodies([[1, 1, 1]]), encoder, layer="adt")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", "  "])
def test_missing_texts_are_counted_and_named(encoder, missing):
    with pytest.raises(ValueError, match=r"1 of 3 rows have no sequence, the first is 'p1' \(row 1\)"):
        entity_vectors(entities(["MKT", missing, "GG"]), encoder)


@pytest.mark.parametrize("kind", [object, "string", "category"])
def test_an_error_gives_name_and_row_of_the_observation(encoder, kind):
    adata = entities(["MKT", "MKT", "MKT", "MK1", "MKTA", "MK1"])
    adata.obs["sequence"] = adata.obs["sequence"].astype(kind)
    with pytest.raises(ValueError, match=r"The sequence of 'p3' \(row 3\) holds '1'.* Of 6 rows 2 have it"):
        entity_vectors(adata, encoder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unknown", "is 'unknown', a word; leave it out"),
        ("None", "is 'None', a word"),
        ("nan", "is 'nan', a word"),
        ("GAPDH", "is 'GAPDH', which is the symbol of a gene"),
        ("P04637", "is 'P04637', which is an accession"),
    ],
)
def test_words_in_the_place_of_proteins_are_refused_with_their_row(encoder, text, message):
    with pytest.raises(ValueError, match=rf"The sequence of 'p2' \(row 2\) {message}"):
        entity_vectors(entities(["CYIQNCPLG", "GAG", text]), encoder)
    adata = antibodies([[1, 2, 3]])
    adata.var["sequence"] = [SEQUENCES[0], text, SEQUENCES[1]]
    with pytest.raises(ValueError, match=rf"The sequence of 'CD4' \(row 1\) {message}"):
        entity_vectors(adata, encoder)


def test_an_encoder_from_elsewhere_counts_the_rows_of_the_data(encoder):
    class Strict:
        name, mod, fingerprint, width = "strict", "protein", "", 4

        def encode(self, texts, *, batch_size=None):
            if "GG" in texts:
                msg = f"row {list(texts).index('GG')} is not read"
                raise ValueError(msg)
            return np.zeros((len(texts), 4))

    with pytest.raises(ValueError, match="row 3 is not read"):
        entity_vectors(entities(["MKT", "MKT", "MKT", "GG"]), Strict())
    with pytest.raises(ValueError, match=r"The sequence of 'p1' \(row 1\) is 'N/A', a word"):
        entity_vectors(entities(["MKT", "N/A"]), Strict())
