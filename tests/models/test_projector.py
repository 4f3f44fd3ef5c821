import pytest
import torch

from bioverse_sc.models import ProjectorConfig
from bioverse_sc.models._projector import Projector


def config(**changes):
    shape = {"encoder": "x", "encoder_fingerprint": "", "in_width": 6, "hidden_width": 10, "out_width": 8}
    return ProjectorConfig(**shape | changes)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
@pytest.mark.parametrize("n_tokens", [1, 4])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_layers_tokens_and_norms_are_as_configured(n_layers, n_tokens, layer_norm):
    projector = Projector(config(n_layers=n_layers, n_tokens=n_tokens, layer_norm=layer_norm))
    assert projector(torch.randn(5, 6)).shape == (5, n_tokens, 8)
    kinds = [type(layer) for layer in projector.layers]
    assert kinds.count(torch.nn.Linear) == n_layers
    assert kinds.count(torch.nn.LayerNorm) == (n_layers if layer_norm else 0)
    assert kinds.count(torch.nn.ReLU) == kinds.count(torch.nn.Dropout) == n_layers - 1


def test_it_is_the_mlp_of_the_paper_by_default():
    projector = Projector(config(dropout=0.3))
    kinds = [type(layer).__name__ for layer in projector.layers]
    block = ["Linear", "ReLU", "LayerNorm", "Dropout"]
    assert kinds == ["LayerNorm", *block, *block, "Linear"]
    assert projector.layers[4].p == 0.3
    with torch.no_grad():
        x = torch.randn(3, 6)
        expected = torch.nn.functional.layer_norm(x, (6,))
        for i in (1, 5):
            expected = torch.nn.functional.layer_norm(projector.layers[i](expected).relu(), (10,))
        torch.testing.assert_close(projector.eval()(x)[:, 0], projector.layers[9](expected))


def test_dropout_works_in_training_only():
    projector = Projector(config(dropout=0.5))
    x = torch.randn(3, 6)
    assert not torch.equal(projector.train()(x), projector(x))
    assert torch.equal(projector.eval()(x), projector(x))


def test_the_seed_makes_the_weights():
    one, same, other = Projector(config()), Projector(config()), Projector(config(seed=1))
    assert torch.equal(one.layers[1].weight, same.layers[1].weight)
    assert not torch.equal(one.layers[1].weight, other.layers[1].weight)


@pytest.mark.parametrize("name", ["in_width", "hidden_width", "out_width", "n_tokens", "n_layers"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} is 0; expected a positive"):
        Projector(config(**{name: 0}))


def test_a_shape_alone_is_no_projector():
    with pytest.raises(ValueError, match="in_width is 0; expected a positive"):
        Projector(ProjectorConfig(hidden_width=10))


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_is_a_share(dropout):
    with pytest.raises(ValueError, match="dropout is"):
        config(dropout=dropout)
