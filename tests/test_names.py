"""Names that a module does not have: the nearest one, or what to use instead."""

import importlib
import inspect

import fastntk
import nt_names
import pytest
from fastntk import Kernel, predict, stax

FIELDS = tuple(Kernel.__dataclass_fields__)


@pytest.mark.parametrize("name", nt_names.STAX)
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


def test_the_page_of_names_is_what_is_here():
    assert nt_names.PAGE.read_text() == nt_names.page(), "python tests/nt_names.py writes it"
    holders = {
        "neural_tangents": lambda name: hasattr(fastntk, name), "stax": lambda name: hasattr(stax, name),
        "predict": lambda name: hasattr(predict, name), "Kernel": lambda name: hasattr(Kernel, name) or name in FIELDS,
        "kernel_fn": lambda name: name in inspect.signature(type(stax.Identity().kernel_fn).__call__).parameters,
    }  # fmt: skip
    for title, names in nt_names.TABLES.items():
        for name, verdict in names.items():
            assert verdict.split(",")[0].split(":")[0].split()[0] in ("same", "better", "absent"), name
            assert holders[title](name) != verdict.startswith("absent: "), f"{title}.{name}: {verdict}"


def test_the_page_has_all_names_of_neural_tangents():
    assert len(nt_names.STAX) == 57
    assert len(nt_names.TOP) == 13
    assert len(nt_names.PREDICT) == 7
