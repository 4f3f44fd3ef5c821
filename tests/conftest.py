import logging

import pytest
import scanpy as sc

import bioverse_sc as bsc
from bioverse_sc._logging import logger
from bioverse_sc.models import get_model
from tests.tiny import make_encoder, make_model


@pytest.fixture(autouse=True, scope="session")
def _settings():
    bsc.settings.device = "cpu"
    bsc.settings.progress = False


@pytest.fixture(scope="session")
def mini():
    """The bundled model, the one that the ``tl`` functions share. Not to be changed."""
    return get_model("mini")


@pytest.fixture(scope="session")
def _pbmc():
    return sc.datasets.pbmc68k_reduced()


@pytest.fixture
def pbmc(_pbmc):
    """700 blood cells that ship with scanpy: X is scaled, raw is log-normalised."""
    return _pbmc.copy()


@pytest.fixture
def cells(_pbmc):
    """Twelve of them, spread over the types, log-normalised values in X."""
    adata = _pbmc.raw.to_adata()[::58][:12].copy()
    adata.layers["twice"] = adata.X * 2
    return adata


@pytest.fixture(scope="session")
def annotated(_pbmc):
    """Eight cells with everything that annotate writes. Not to be changed."""
    adata = _pbmc.raw.to_adata()[::83][:8].copy()
    bsc.tl.annotate(adata)
    return adata


@pytest.fixture(scope="session")
def compared(annotated):
    """The same cells with what alignment writes. Not to be changed."""
    adata = annotated.copy()
    bsc.tl.alignment_umap(adata)
    return adata


@pytest.fixture
def tiny():
    return make_model()


@pytest.fixture
def log():
    """Records of the package's logger."""
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append(record)

    handler = Handler()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.fixture(scope="session")
def only_cells():
    """A small model that reads cells alone, without a memory."""
    return make_model(encoders={"rna": make_encoder()})
