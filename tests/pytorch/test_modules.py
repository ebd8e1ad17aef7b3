"""Layers and models: shapes, weights, options, and what they compute."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cupyna.torch import (  # noqa: E402
    NeighborhoodAttention1D,
    NeighborhoodAttention2D,
    NeighborhoodAttention3D,
    models,
    na2d,
)

pytestmark = pytest.mark.torch

LAYERS = (NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D)
SMALL = models.Layout(
    8, (2, 1), (2, 4), 2.0, 0.5, kernel_size=3, dilations=((1, 2), (1,)), layer_scale=0.1
)

# Parameters of the published models, in millions.
SIZES = {
    "nat_mini": 20, "nat_tiny": 28, "nat_small": 51, "nat_base": 90,
    "dinat_mini": 20, "dinat_tiny": 28, "dinat_small": 51, "dinat_base": 90,
    "dinat_large": 201, "dinat_large_384": 201, "dinat_large_384_11x11": 201,
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
def test_arguments_and_defaults_are_those_of_natten(layer: Any) -> None:
    parameters = inspect.signature(layer).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY}
    assert list(defaults.items())[3:] == [
        ("stride", 1), ("dilation", 1), ("is_causal", False), ("qkv_bias", True),
        ("qk_scale", None), ("proj_drop", 0.0),
    ]  # fmt: skip
    assert list(defaults)[:3] == ["embed_dim", "num_heads", "kernel_size"]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_is_attention_between_projections(layer: Any) -> None:
    torch.manual_seed(0)
    module = layer(12, 3, 4, stride=2, is_causal=True, qk_scale=0.3, rpb=True)
    spatial = (6, 5, 4)[: layer.rank]
    x = torch.randn(2, *spatial, 12)
    qkv = module.qkv(x).reshape(2, *spatial, 3, 3, 4)
    q, k, v = qkv.unbind(-3)
    from cupyna.torch import neighborhood_attention

    out = neighborhood_attention(
        q, k, v, 4, stride=2, is_causal=True, scale=0.3, bias=module.rpb
    ).reshape(x.shape)
    torch.testing.assert_close(module(x), module.proj(out))
    module(x).sum().backward()
    assert module.rpb.grad.abs().sum() > 0
    assert "rpb=True" in repr(module)


def test_weights_have_the_names_of_natten() -> None:
    names = {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias"}
    assert set(NeighborhoodAttention2D(8, 2, 3).state_dict()) == names
    assert set(NeighborhoodAttention2D(8, 2, 3, rpb=True).state_dict()) == {*names, "rpb"}
    unbiased = NeighborhoodAttention2D(8, 2, 3, qkv_bias=False).state_dict()
    assert set(unbiased) == names - {"qkv.bias"}


@pytest.mark.parametrize("method", ["naive", "gemm", "fused"])
def test_a_layer_runs_by_the_method_it_is_given(method: str) -> None:
    module = NeighborhoodAttention2D(8, 2, 3, method=method, deterministic=True)
    options = {}

    def attend(*tensors: Any, **given: Any) -> Any:
        options.update(given)
        return na2d(*tensors, **given)

    module.attend = attend
    module(torch.randn(1, 5, 5, 8))
    assert options["method"] == method
    assert options["deterministic"]
    assert f"method={method!r}, deterministic=True" in repr(module)


def test_global_tokens_reach_every_token() -> None:
    module = NeighborhoodAttention1D(8, 2, 3).eval()
    x, keys = torch.randn(1, 20, 8), torch.randn(1, 4, 2, 4)
    changed = keys.clone()
    changed[:, 2] += 3
    difference = module(x, keys, keys) - module(x, changed, keys)
    assert (difference.abs().amax(-1) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 2, 3), "embed_dim must be a multiple of num_heads"),
        ((8, 2, (3, 3, 3)), "kernel_size must have 2 entries"),
        ((8, 2, 3, (1,)), "stride must have 2 entries"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeighborhoodAttention2D(*arguments)


@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 6, 6, 9)])
def test_inputs_that_do_not_fit_are_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"x must be \[batch, \*spatial, 8\]"):
        NeighborhoodAttention2D(8, 2, 3)(torch.ones(shape))


@pytest.mark.parametrize("name", models.LAYOUTS)
def test_models_have_the_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = getattr(models, name)()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == SIZES[name]


@pytest.mark.parametrize("name", models.LAYOUTS)
def test_dilated_windows_fit_the_images(name: str) -> None:
    layout = models.LAYOUTS[name]
    for level, depth in enumerate(layout.depths):
        side = layout.image_size // 4 >> level
        widest = max(layout.dilation(level, layer) for layer in range(depth))
        assert layout.kernel_size * widest <= side
        # As published: the widest dilation of a level is all that fits.
        assert not layout.dilations or layout.kernel_size * (widest + 1) > side


def test_every_layout_is_a_function() -> None:
    for name in models.LAYOUTS:
        assert name in dir(models)
        assert callable(getattr(models, name))
    with pytest.raises(AttributeError, match="no attribute 'nat_huge'"):
        models.nat_huge  # noqa: B018


def test_a_model_classifies_and_learns() -> None:
    torch.manual_seed(0)
    model = models.NAT(SMALL, num_classes=3)
    images = torch.randn(4, 3, 24, 24)
    scores = model(images)
    assert scores.shape == (4, 3)
    scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_methods_give_the_same_model() -> None:
    torch.manual_seed(0)
    model = models.NAT(SMALL, num_classes=0).eval().double()
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        expected = model(images)
        for method in ("naive", "gemm", "fused"):
            other = copy.deepcopy(model).use(method=method)
            torch.testing.assert_close(other(images), expected)
    with pytest.raises(TypeError, match="no option 'speed'"):
        model.use(speed=9)


def test_layers_are_skipped_in_training_alone() -> None:
    torch.manual_seed(0)
    model = models.NAT(SMALL)
    images = torch.randn(1, 3, 24, 24)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.slow
def test_a_model_compiles_in_one_graph() -> None:
    torch.manual_seed(0)
    model = models.NAT(SMALL).eval()
    images = torch.randn(2, 3, 24, 24)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), model(images))
