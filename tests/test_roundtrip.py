"""A small project from data to a model on disk and back: all public steps, one after the other."""

import numpy as np
import pytest
import scanpy as sc
from scipy.sparse import csr_matrix

import bioverse_sc as bsc
from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTConfig, ScGPTEncoder
from bioverse_sc.models import label_prompt
from bioverse_sc.train import Example, LoraSettings, TrainConfig
from tests.tiny import VECTOR, make_model

LABELS = ["B cell", "T cell", "monocyte"]


@pytest.fixture(scope="module")
def genes(_pbmc):
    return list(_pbmc.raw.var_names[:90])


def counts_of(n, genes, *, seed):
    """Cells of three types by the package's own simulation."""
    profiles = np.where(np.arange(len(genes)) % 3 == np.arange(3)[:, None], 4.0, 0.3)
    chosen = np.arange(n) % 3
    config = bsc.datasets.SimulationConfig(
        panel_share=0.0, depth=(150.0, 300.0), batch_effect_sd=(0.0, 0.1), style=(0.0, 0.0)
    )
    counts = bsc.datasets.simulate_counts(profiles, np.arange(3), np.zeros(3), chosen, config=config, seed=seed)
    return counts, chosen


@pytest.fixture(scope="module")
def trained(genes):
    counts, types = counts_of(300, genes, seed=1)
    shape = ScGPTConfig(embsize=VECTOR, nheads=2, d_hid=32, nlayers=2, dropout=0.0, max_seq_len=91)
    encoder = ScGPTEncoder.untrained(shape, GeneVocabulary(genes))
    quick = TrainConfig(steps=120, batch_size=32, learning_rate=5e-3, warmup_steps=5)
    history = bsc.train.pretrain_encoder(encoder, encoder.tokenize(counts, genes), quick, types=types)
    assert history[-1]["accuracy"] > 0.9, "the types are far apart"
    model = make_model(encoders={"rna": encoder}, labels=LABELS, dropout=0.0)
    vectors = encoder.encode(counts, genes)
    bsc.train.align(model, vectors, bsc.train.Descriptions([f"{label}." for label in LABELS], types), quick)
    examples = [Example(label_prompt(LABELS[t]), (i,)) for i, t in enumerate(types)]
    tune = TrainConfig(steps=120, batch_size=32, learning_rate=0.01, warmup_steps=10)
    bsc.train.instruct(model, examples, {"rna": vectors}, tune, lora=LoraSettings(rank=4))
    return model


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("roundtrip") / "model"
    bsc.models.save(trained, folder)
    return folder


def make_cells(genes, *, seed=7, n=30):
    counts, types = counts_of(n, genes, seed=seed)
    adata = sc.AnnData(csr_matrix(counts))
    adata.var_names = genes
    adata.obs["truth"] = [LABELS[t] for t in types]
    return adata


def accuracy(adata):
    return (adata.obs["bioverse_label"].astype(str) == adata.obs["truth"].astype(str)).mean()


def test_a_model_made_by_public_functions_labels_new_cells(folder, genes):
    adata = make_cells(genes)
    bsc.tl.annotate(adata, model=folder, reasoning=None)
    assert accuracy(adata) > 0.9


def test_genes_in_any_order_are_the_same_cells(folder, genes):
    adata = make_cells(genes)
    shuffled = adata[:, np.random.default_rng(3).permutation(adata.n_vars)].copy()
    bsc.tl.annotate(adata, model=folder, reasoning=None)
    bsc.tl.annotate(shuffled, model=folder, reasoning=None)
    assert accuracy(shuffled) > 0.9
    np.testing.assert_allclose(shuffled.obsm["X_scgpt"], adata.obsm["X_scgpt"], atol=1e-5)


def test_a_path_and_a_loaded_model_give_the_same(folder, genes):
    one, two = make_cells(genes), make_cells(genes)
    bsc.tl.annotate(one, model=folder, reasoning=None)
    bsc.tl.annotate(two, model=bsc.models.load(folder, merge_adapter=False), reasoning=None)
    assert one.obs["bioverse_label"].tolist() == two.obs["bioverse_label"].tolist()
    np.testing.assert_allclose(one.obs["bioverse_confidence"], two.obs["bioverse_confidence"], atol=1e-3)


def test_normalised_cells_have_the_labels_of_their_counts(folder, genes):
    adata = make_cells(genes)
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    bsc.tl.annotate(adata, model=folder, reasoning=None)
    bsc.tl.annotate(logged, model=folder, reasoning=None)
    assert logged.uns["bioverse"]["embed"]["kind"] == "log-normalised"
    assert adata.uns["bioverse"]["embed"]["kind"] == "counts"
    np.testing.assert_allclose(logged.obsm["X_scgpt"], adata.obsm["X_scgpt"], atol=1e-3)
    assert logged.obs["bioverse_label"].tolist() == adata.obs["bioverse_label"].tolist()


def test_without_the_soft_token_the_labels_are_blind(trained, genes):
    import torch

    counts, types = counts_of(30, genes, seed=7)
    soft = torch.zeros(30, 1, trained.embeddings.weight.shape[1])
    blind = bsc.models.label_log_probabilities(trained, label_prompt(), soft, LABELS).argmax(axis=1)
    assert (blind == types).mean() <= 1 / 3 + 1e-9
    assert counts.shape == (30, len(genes))


def test_text_is_written_in_the_format_of_the_slots(folder, genes):
    adata = make_cells(genes, n=4)
    bsc.tl.annotate(adata, model=folder)
    assert adata.obs["bioverse_reasoning"].map(type).eq(str).all()
    assert (adata.obs["bioverse_genes_supported"] + adata.obs["bioverse_genes_unsupported"] >= 0).all()
