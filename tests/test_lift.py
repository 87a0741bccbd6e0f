"""Modules of PyTorch as networks of stax: kernels of the module's own draws, and what cannot be lifted."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from fastntk import finite, stax

torch = pytest.importorskip("torch")
import fastntk.torch as ft  # noqa: E402

pytestmark = pytest.mark.rivals
nn = torch.nn


class Residual(nn.Module):
    """A block with a skip, functions instead of modules, and a sum of three."""

    def __init__(self, n):
        super().__init__()
        self.first = nn.Conv2d(2, n, 3, padding=1)
        self.inner = nn.Conv2d(n, n, 3, padding="same", bias=False)
        self.other = nn.Conv2d(n, n, 1)
        self.last = nn.Linear(n * 16, 2)

    def forward(self, x):
        h = self.first(x)
        z = torch.relu(h)
        h = h + self.inner(z) + self.other(torch.tanh(h))
        return self.last(torch.flatten(torch.relu(h), 1))


def sequential(n):
    return nn.Sequential(
        nn.Linear(6, n), nn.ReLU(), nn.Linear(n, n, bias=False), nn.Tanh(), nn.Dropout(0.0), nn.Linear(n, 2)
    )


def pooled(n):
    return nn.Sequential(
        nn.Conv2d(2, n, 3, stride=(2, 1), padding=(1, 0)), nn.LeakyReLU(0.2), nn.AvgPool2d(2, 1),
        nn.Conv2d(n, n, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 2),
    )  # fmt: skip


class Decoder(nn.Module):
    """Resizing, a transposed convolution, and a mean over positions, as methods and functions."""

    def __init__(self, n):
        super().__init__()
        self.first = nn.Conv2d(2, n, 3, padding=1)
        self.norm = nn.GroupNorm(1, n)
        self.wider = nn.ConvTranspose2d(n, n, 4, 2, 1)
        self.last = nn.Linear(n, 2)

    def forward(self, x):
        h = nn.functional.gelu(self.norm(self.first(x)), approximate="tanh")
        h = self.wider(nn.functional.interpolate(h, scale_factor=2, mode="bilinear"))
        return self.last(nn.functional.leaky_relu(h, 0.2).mean(dim=(-2, -1)))


class Tokens(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.first, self.norm, self.inner = nn.Linear(3, n), nn.LayerNorm(n), nn.Linear(n, n)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(n * 4, 2)

    def forward(self, x):
        h = nn.functional.elu(self.norm(self.first(x)), 0.5)
        h = torch.relu(self.drop(self.inner(h)))
        return self.last(h.reshape(x.shape[0], -1))


MODULES = {
    "sequential": (sequential, (6,)), "pooled": (pooled, (2, 4, 4)), "residual": (Residual, (2, 4, 4)),
    "decoder": (Decoder, (2, 2, 2)), "tokens": (lambda n: Tokens(n).eval(), (4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_kernels_are_those_of_the_modules_own_draws(name):
    """PyTorch draws the module anew; means within 3 standard errors, biases of the width told from half of it."""
    make, shape = MODULES[name]
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, *shape)))
    gaps, errors, count = [], [], 150
    for width in (48, 96):
        module = make(width).double()
        exact = ft.lift(module, input_shape=shape).kernel_fn(x.numpy(), None, ("nngp", "ntk"))
        kernel = finite.monte_carlo_kernel_fn(module, None, 1, range(1, count + 1), vmap_axes=0)
        sums = np.array([k * np.array([f.numpy() for f in found]) for k, found in enumerate(kernel(x), 1)])
        draws = np.diff(sums, axis=0, prepend=np.zeros_like(sums[:1])) / np.array(exact)
        gaps.append(draws.mean(axis=0) - 1)
        errors.append(draws.std(axis=0, ddof=1) / math.sqrt(count))
    better, error = 2 * gaps[1] - gaps[0], np.sqrt(4 * errors[1] ** 2 + errors[0] ** 2)
    assert (np.abs(better) < 3.5 * error).all()
    assert (np.abs(gaps[1][1]) < 0.05).all()  # of the NTK; the NNGP of two outputs is noisier


def test_finite_networks_have_the_modules_widths():
    module = sequential(7)
    net = ft.lift(module)
    shape, params = net.init_fn(0, (3, 6))
    assert shape == (3, 2)
    assert [p[0].shape for p in params if p] == [(6, 7), (7, 7), (7, 2)]
    assert [type(layer).__name__ for layer in net.layers] == ["Dense", "Relu", "Dense", "Tanh", "Dropout", "Dense"]


def test_given_variances_are_those_of_the_parameters():
    module = nn.Sequential(nn.Linear(50, 400), nn.ReLU(), nn.Linear(400, 1))
    nn.init.normal_(module[0].weight, std=math.sqrt(2 / 50))
    nn.init.zeros_(module[0].bias)
    first = ft.lift(module, variances="given").layers[0]
    assert first.W_std == pytest.approx(math.sqrt(2), rel=0.02)
    assert first.b_std == 0
    initial = ft.lift(module).layers[0]
    assert initial.W_std == pytest.approx(1 / math.sqrt(3))
    assert initial.b_std == pytest.approx(1 / math.sqrt(150))


def test_blocks_share_what_is_before_their_fork():
    net = ft.lift(Residual(4))
    assert "FanOut" in str(net)
    assert str(net).count("Conv") == 3
    x = np.random.default_rng(0).standard_normal((2, 2, 4, 4))
    assert net.kernel_fn(x, None, "nngp").shape == (2, 2)


def test_functions_and_methods_are_what_their_modules_are():
    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x):
            h = self.first(x)
            h += torch.square(h)
            h = nn.functional.hardtanh(nn.functional.dropout(h, 0.4, training=False), -2.0, 1.0)
            return self.last(h.view(h.size(0), -1))

    names = [type(layer).__name__ for layer in ft.lift(Functions()).layers]
    assert names == ["Dense", "FanOut", "Parallel", "FanInSum", "Dropout", "HardTanh", "Flatten", "Dense"]


def test_means_over_positions_need_to_know_them():
    class Mean(nn.Module):
        def __init__(self, over):
            super().__init__()
            self.first, self.last, self.over = nn.Linear(3, 4), nn.Linear(4, 1), over

        def forward(self, x):
            return self.last(torch.relu(self.first(x)).mean(self.over))

    x = np.random.default_rng(0).standard_normal((3, 5, 3))
    pooled = ft.lift(Mean(1), input_shape=(5, 3))
    by_hand = stax.serial(*pooled.layers[:2], stax.GlobalAvgPool(), pooled.layers[-1])
    np.testing.assert_array_equal(pooled.kernel_fn(x, None, "ntk"), by_hand.kernel_fn(x, None, "ntk"))
    with pytest.raises(ft.Unliftable, match="mean, at mean: which axes hold positions is known with input_shape="):
        ft.lift(Mean(1))
    with pytest.raises(ft.Unliftable, match="mean, at mean, is what no layer"):
        ft.lift(Mean((0, 1)), input_shape=(5, 3))
    with pytest.raises(ValueError, match=re.escape("the module takes no inputs of shape (5, 4)")):
        ft.lift(Mean(1), input_shape=(5, 4))


def test_dropout_in_front_of_a_rectifier_goes_behind_it():
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.25), nn.ReLU(), nn.Linear(4, 1))
    assert [type(layer).__name__ for layer in ft.lift(module).layers] == ["Dense", "Relu", "Dropout", "Dense"]
    found, q = ft.lift(module).kernel_fn.diagonal(np.ones((1, 3)), "nngp"), 1 / 3 + 1 / 9
    assert found[0] == pytest.approx(q / 2 / 0.75 / 3 + 1 / 12)


class Product(nn.Module):
    def forward(self, x):
        return x * torch.relu(x)


class Multiple(nn.Module):
    def forward(self, x):
        return torch.add(x, torch.relu(x), alpha=0.5)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "1: BatchNorm1d"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sequential(nn.MaxPool2d(2))), "1.0: MaxPool2d"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "of 2 groups"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2)), "to more than one position"),
        (nn.Sequential(nn.Linear(3, 4), nn.TransformerEncoderLayer(4, 2)), "1: TransformerEncoderLayer() is what"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.LayerNorm(5)), "1: LayerNorm((5,), eps=1e-05, elementwise_affine=True"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(5, 4)), "over the last axis of images"),
        (nn.Sequential(nn.ConvTranspose2d(2, 4, 3, 2, 1, 1)), "pads neither as 'VALID' nor as 'SAME'"),
        (nn.Sequential(*[nn.Linear(3, 3)] * 2), "0: is used twice"),
        (nn.Sequential(nn.Upsample(scale_factor=2)), "needs lift(..., input_shape=)"),
        (Multiple(), "add of a tensor and a number, or of a multiple"),
        (Product(), "mul, at mul, is what no layer of stax stands for"),
        (Branching(), "torch.fx cannot trace Branching"),
    ],
)
def test_what_cannot_be_lifted_is_named(module, words):
    with pytest.raises(ft.Unliftable, match=re.escape(words)):
        ft.lift(module)


def test_refused():
    with pytest.raises(TypeError, match=re.escape("[lift] takes a torch.nn.Module, given")):
        ft.lift(stax.Relu())
    with pytest.raises(ValueError, match="variances must be 'initial' or 'given'"):
        ft.lift(nn.Identity(), variances="mine")
