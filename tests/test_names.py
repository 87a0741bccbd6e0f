"""Names that a module does not have: the nearest one, or what to use instead."""

import importlib

import fastntk
import pytest
from fastntk import stax

# Public names of Neural Tangents' stax, 0.6.5.
ELSEWHERE = [
    "ABRelu", "Abs", "Aggregate", "AggregateImplementation", "AttentionMechanism", "AvgPool", "Bool", "Conv",
    "ConvLocal", "ConvTranspose", "Cos", "Dense", "Diagonal", "DotGeneral", "Dropout", "Elementwise",
    "ElementwiseNumerical", "Erf", "Exp", "ExpNormalized", "FanInConcat", "FanInProd", "FanInSum", "FanOut",
    "Flatten", "Gabor", "Gaussian", "Gelu", "GlobalAvgPool", "GlobalSelfAttention", "GlobalSumPool", "Hermite",
    "Identity", "ImageResize", "Index", "LayerNorm", "LeakyRelu", "MaskedArray", "Monomial", "Padding",
    "PositionalEmbedding", "Rbf", "RectifiedMonomial", "Relu", "Sigmoid_like", "Sign", "Sin", "Slice", "SumPool",
    "layer", "parallel", "repeat", "requires", "serial", "supports_masking", "unmask_fn",
]  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_every_name_of_neural_tangents_is_there_or_says_what_to_use(name):
    if name in stax.__all__:
        assert getattr(stax, name) is not None
        return
    with pytest.raises(AttributeError, match=rf"stax\.{name} is not implemented; instead: .*There are ABRelu"):
        getattr(stax, name)
    assert not hasattr(stax, name)


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("stax", "ReLU", "nearest name is Relu"),
        ("stax", "LeakyReLU", "nearest name is LeakyRelu"),
        ("stax", "GlobalAveragePool", "nearest name is GlobalAvgPool"),
        ("stax", "Desne", "nearest name is Dense"),
        ("stax", "tanh", "nearest name is Tanh"),
        ("stax", "Conv2d", "instead: Conv"),
        ("stax", "Sequential", "instead: serial"),
        ("stax", "xyzzy", r"is not implemented\. There are ABRelu"),
        ("dual", "Relu", "nearest name is relu"),
        ("dual", "tan", "nearest name is tanh"),
        ("quadrature", "duals", "nearest name is dual"),
        ("meanfield", "critical_lines", "nearest name is critical_line"),
        ("predict", "gradient_descent_mse_ensembel", "nearest name is gradient_descent_mse_ensemble"),
    ],
)
def test_near_names(module, name, words):
    if module == "predict":
        pytest.importorskip("scipy")
    with pytest.raises(AttributeError, match=words):
        getattr(importlib.import_module(f"fastntk.{module}"), name)


def test_the_package_itself():
    with pytest.raises(AttributeError, match="nearest name is predict"):
        _ = fastntk.predicts
    for private in ("__wrapped__", "_private"):
        with pytest.raises(AttributeError, match="has no attribute"):
            getattr(stax, private)
