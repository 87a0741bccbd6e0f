"""The kernel in GPyTorch and BoTorch: their own tests of a kernel, BoTorch's class beside ours, whole models."""

from __future__ import annotations

import copy
import pickle
import unittest

import numpy as np
import pytest
from fastntk import stax

torch = pytest.importorskip("torch")
gpytorch = pytest.importorskip("gpytorch")
from fastntk.gpytorch import InfiniteWidthKernel  # noqa: E402
from gpytorch.test.base_kernel_test_case import BaseKernelTestCase  # noqa: E402

pytestmark = [pytest.mark.rivals, pytest.mark.filterwarnings("default")]  # of the libraries' own

NET = stax.serial(stax.Dense(1, 1.2, 0.1), stax.Erf(), stax.Dense(1, 1.1))


def botorch_kernel():
    pytest.importorskip("botorch")
    from fastntk.botorch import InfiniteWidthBNNKernel

    return InfiniteWidthBNNKernel


class TestShared(BaseKernelTestCase, unittest.TestCase):
    def create_kernel_no_ard(self, **kwargs):
        return InfiniteWidthKernel(**kwargs)

    def create_kernel_ard(self, num_dims, **kwargs):
        return InfiniteWidthKernel(ard_num_dims=num_dims, **kwargs)


class TestOfANetwork(BaseKernelTestCase, unittest.TestCase):
    def create_kernel_no_ard(self, **kwargs):
        return InfiniteWidthKernel(NET, get="ntk", **kwargs)

    def create_kernel_ard(self, num_dims, **kwargs):
        return InfiniteWidthKernel(NET.kernel_fn, ard_num_dims=num_dims, **kwargs)


class TestDropIn(BaseKernelTestCase, unittest.TestCase):
    def create_kernel_no_ard(self, **kwargs):
        return botorch_kernel()(**kwargs)


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


# ---------------------------------------------------------------- ours


def test_values_are_the_kernel_functions():
    x, y = normal(4, 3), normal(2, 3, seed=1)
    for get in ("nngp", "ntk"):
        kernel = InfiniteWidthKernel(NET, get=get).double()
        kernel.W_std, kernel.b_std = (
            torch.tensor([[1.2], [1.1]], dtype=torch.float64),
            torch.tensor(0.1, dtype=torch.float64),
        )
        found = kernel(x, y).to_dense().detach().numpy()
        assert found == pytest.approx(NET.kernel_fn(x.numpy(), y.numpy(), get), rel=1e-12)
        assert kernel(x, diag=True).detach().numpy() == pytest.approx(NET.kernel_fn.diagonal(x.numpy(), get), rel=1e-12)


def test_where_learning_begins():
    shared = InfiniteWidthKernel(depth=2, W_std=1.3, b_std=0.2)
    assert shared.W_std.shape == shared.b_std.shape == (1, 1)
    assert shared.W_std.item() == pytest.approx(1.3)
    assert InfiniteWidthKernel().b_std.item() == pytest.approx(0.1)
    apart = InfiniteWidthKernel(depth=2, shared=False, W_std=1.3, batch_shape=torch.Size([5]))
    assert apart.W_std.shape == (5, 3, 1)
    assert apart.b_std.shape == (5, 2, 1)
    of_network = InfiniteWidthKernel(NET)
    assert of_network.W_std.flatten().tolist() == pytest.approx([1.2, 1.1])
    assert InfiniteWidthKernel(NET, shared=True, W_std=1.7).W_std.item() == pytest.approx(1.7)
    unbiased = InfiniteWidthKernel(stax.serial(stax.Dense(1), stax.Relu()))
    assert set(dict(unbiased.named_parameters())) == {"raw_W_std"}
    with pytest.raises(AttributeError, match="b_std"):
        _ = unbiased.b_std


def test_gradients_of_all_parameters():
    x, y = normal(2, 1, 3, 2), normal(2, 4, 2, seed=1)
    kernel = InfiniteWidthKernel(
        depth=2, nonlinearity=stax.LeakyRelu(0.1), get="ntk", shared=False, ard_num_dims=2,
        batch_shape=torch.Size([2, 2]),
    ).double()  # fmt: skip
    names, values = zip(*kernel.named_parameters(), strict=True)

    def run(x, y, *values):
        return torch.func.functional_call(kernel, dict(zip(names, values, strict=True)), (x, y)).to_dense()

    inputs = [v.detach().clone().requires_grad_() for v in (x, y, *values)]
    assert set(names) == {"raw_W_std", "raw_b_std", "raw_lengthscale"}
    assert torch.autograd.gradcheck(run, inputs)


def test_priors_constraints_and_copies():
    kernel = InfiniteWidthKernel(
        W_std_prior=gpytorch.priors.GammaPrior(2.0, 1.0), b_std_constraint=gpytorch.constraints.Interval(0.05, 2.0),
        lengthscale_prior=gpytorch.priors.GammaPrior(3.0, 6.0),
    ).double()  # fmt: skip
    assert {name for name, *_ in kernel.named_priors()} == {"W_std_prior", "lengthscale_prior"}
    (prior,) = [p for p in kernel.named_priors() if p[0] == "W_std_prior"]
    assert torch.equal(prior[3](kernel), kernel.W_std)
    prior[4](kernel, torch.full((1, 1), 1.5))
    assert kernel.W_std.item() == pytest.approx(1.5)
    kernel.raw_b_std.data.fill_(100.0)
    assert kernel.b_std.item() <= 2.0
    x = normal(3, 2)
    for again in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert torch.equal(again(x).to_dense(), kernel(x).to_dense())
    assert not kernel.is_stationary


def model_of(x, y, covariance, noise=1e-4):
    class Model(gpytorch.models.ExactGP):
        def __init__(self, likelihood):
            super().__init__(x, y, likelihood)
            self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), covariance

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    likelihood.noise = noise
    return Model(likelihood), likelihood


def test_the_evidence_and_its_gradient_are_those_of_the_definition():
    x = normal(12, 2)
    y = torch.sin(2 * x[:, 0])
    kernel = InfiniteWidthKernel(depth=1, get="nngp", shared=False).double()
    model, likelihood = model_of(x, y, kernel, 0.1)
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    value = 12 * mll(model(x), y)
    value.backward()
    paths = {"0.W_std": kernel.W_std[0].item(), "0.b_std": kernel.b_std[0].item(), "2.W_std": kernel.W_std[1].item()}
    plain = kernel.network.kernel_fn.with_parameters(paths)
    A = plain(x.numpy(), None, "nngp") + 0.1 * np.eye(12)
    alpha = np.linalg.solve(A, y.numpy())
    expected = -(y.numpy() @ alpha + np.linalg.slogdet(A)[1] + 12 * np.log(2 * np.pi)) / 2
    assert value.item() == pytest.approx(expected, rel=1e-8)
    found = plain.vjp(x.numpy(), cotangents={"nngp": (np.outer(alpha, alpha) - np.linalg.inv(A)) / 2}).parameters
    chain = torch.sigmoid(kernel.raw_W_std.detach()).flatten().numpy()  # of softplus
    assert kernel.raw_W_std.grad.flatten().numpy() == pytest.approx(
        chain * np.array([found["0.W_std"], found["2.W_std"]]), rel=1e-6
    )


def test_predictions_have_gradients_at_training_points_too():
    x = normal(8, 2)
    y = torch.sin(2 * x[:, 0])
    model, likelihood = model_of(x, y, InfiniteWidthKernel(get="ntk").double())
    model.eval(), likelihood.eval()
    at = torch.cat([x[:1], x[1:2] + 1e-9, normal(1, 2, seed=3)]).requires_grad_()
    predicted = model(at)
    (predicted.mean.sum() + predicted.variance.sum()).backward()
    assert torch.isfinite(at.grad).all()


REFUSED = {
    "get": (lambda: InfiniteWidthKernel(get="cov1"), ValueError, "'nngp' or 'ntk'"),
    "nonlinearity": (lambda: InfiniteWidthKernel(nonlinearity="sine"), ValueError, "one of"),
    "layer": (lambda: InfiniteWidthKernel(nonlinearity=stax.Dense(1)), TypeError, "nonlinearity of stax"),
    "depth": (lambda: InfiniteWidthKernel(depth=0), ValueError, "at least 1"),
    "network": (lambda: InfiniteWidthKernel(network=3), TypeError, "stax layer"),
    "no weights": (lambda: InfiniteWidthKernel(stax.Identity()), ValueError, "no layer with W_std"),
    "last": (
        lambda: InfiniteWidthKernel()(normal(3, 2), last_dim_is_batch=True).to_dense(), RuntimeError,
        "last_dim_is_batch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    call, kind, words = REFUSED[what]
    with pytest.raises(kind, match=words):
        call()


# ---------------------------------------------------------------- BoTorch


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("batch", [(), (2,), (3, 1)])
def test_the_drop_in_beside_botorchs(depth, batch):
    Ours = botorch_kernel()
    from botorch.models.kernels import InfiniteWidthBNNKernel as Theirs

    theirs = Theirs(depth, torch.Size(batch)).double()
    theirs.weight_var = torch.rand(*batch, 1, 1) + 0.5
    ours = Ours(depth, torch.Size(batch), acos_eps=1e-3).double()
    ours.load_state_dict(theirs.state_dict())
    y = normal(2, 3, 4, seed=1)
    grads = []
    for kernel in (theirs, ours):
        x = normal(3, 2, 5, 4).requires_grad_()
        k = kernel(x, y).to_dense()
        k.square().sum().backward()
        grads.append([k.detach(), x.grad, kernel.raw_weight_var.grad, kernel.raw_bias_var.grad, kernel(x, diag=True)])
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


def test_the_drop_ins_properties():
    kernel = botorch_kernel()(2, batch_shape=torch.Size([2]), active_dims=(0, 2))
    kernel.weight_var, kernel.bias_var = torch.ones(2, 1, 1), 0.5
    assert torch.allclose(kernel.weight_var, torch.ones(2, 1, 1))
    assert torch.allclose(kernel.bias_var, torch.full((2, 1, 1), 0.5))
    assert kernel.dtype == torch.float32
    with pytest.raises(RuntimeError, match="last_dim_is_batch"):
        kernel(torch.ones(2, 3), last_dim_is_batch=True).to_dense()
    with pytest.raises(ValueError, match="at least 0"):
        botorch_kernel()(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_and_two_layers_by_hand(dtype):
    kernel = botorch_kernel()(0).to(dtype)
    x = torch.tensor([[0.1, 0.2], [0.4, 0.5], [0.7, 0.8]], dtype=dtype)
    kernel.weight_var, kernel.bias_var = 2.0, 0.3
    assert torch.allclose(kernel(x).to_dense(), x @ x.T + 0.3, rtol=1e-5)
    two = botorch_kernel()(2).to(dtype)
    two.weight_var, two.bias_var = 2.0, 0.3
    at = two(x).to_dense()[0, 0].item()
    q = 0.05 + 0.3
    assert at == pytest.approx(q + 0.3 + 0.3, rel=1e-5)  # weight_var 2 halves nothing: K -> K + .3


def test_models_are_fitted_and_acquisition_functions_optimised():
    Ours = botorch_kernel()
    from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf

    torch.manual_seed(0)
    x = torch.rand(10, 3, dtype=torch.float64)
    y = -((x - 0.4) ** 2).sum(1, keepdim=True)
    for kernel in (Ours(2), InfiniteWidthKernel(depth=2, get="ntk")):
        model = SingleTaskGP(x, y, covar_module=kernel.double())
        mll = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        before = mll(model.train()(*model.train_inputs), model.train_targets).item()
        fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": 15}})
        assert mll(model.train()(*model.train_inputs), model.train_targets).item() > before
        model.eval()
        bounds = torch.stack([torch.zeros(3), torch.ones(3)]).double()
        for acquisition, q in (
            (LogExpectedImprovement(model, y.max()), 1),
            (qLogExpectedImprovement(model, y.max()), 2),
        ):
            found, value = optimize_acqf(
                acquisition, bounds, q=q, num_restarts=2, raw_samples=8, options={"maxiter": 5, "batch_limit": 2}
            )
            assert found.shape == (q, 3)
            assert torch.isfinite(value)


def test_rows_that_are_images():
    net = stax.serial(stax.Conv(3, (2, 2), b_std=0.1), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
    module = InfiniteWidthKernel(net, input_shape=(3, 2, 2)).double()
    x = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    found = module(x).to_dense()
    expected = net.kernel_fn(x.detach().numpy().reshape(4, 3, 2, 2), None, "nngp")
    assert np.allclose(found.detach().numpy(), expected, rtol=1e-6)
    found.sum().backward()
    assert x.grad.isfinite().all()
    assert module.raw_W_std.grad.isfinite().all()
    assert module(x, diag=True).shape == (4,)
