"""The steps of a script for Neural Tangents, its imports changed: JAX's arrays and keys, layers and predictors."""

from __future__ import annotations

import fastntk as nt
import numpy as np
import pytest
from fastntk import stax

jax = pytest.importorskip("jax")


@pytest.fixture(scope="module")
def data():
    keys = jax.random.split(jax.random.PRNGKey(1), 3)
    x_train, x_test = (jax.random.normal(k, (n, 16)) for k, n in zip(keys, (10, 6), strict=False))
    return x_train, jax.random.normal(keys[2], (10, 1)), x_test


def fully_connected():
    return stax.serial(
        stax.Dense(512, W_std=1.5, b_std=0.05), stax.Relu(), stax.Dense(512, W_std=1.5, b_std=0.05), stax.Erf(),
        stax.Dense(1),
    )  # fmt: skip


def test_triple_kernels_and_fields(data):
    x1, _, x2 = data
    init_fn, apply_fn, kernel_fn = fully_connected()
    out_shape, params = init_fn(jax.random.PRNGKey(0), x1.shape)
    assert out_shape == (10, 1)
    assert isinstance(apply_fn(params, x1), jax.Array)
    both = kernel_fn(x1, x2, ("nngp", "ntk"))
    assert isinstance(both.ntk, jax.Array)
    np.testing.assert_array_equal(kernel_fn(x1, x2, "ntk"), both.ntk)
    kernel = kernel_fn(x1, None)
    assert kernel.x1_is_x2
    assert kernel.cov2 is None
    batched = nt.batch(kernel_fn, device_count=-1, batch_size=5)
    np.testing.assert_array_equal(batched(x1, x2, "nngp"), both.nngp)


def test_ensembles_that_are_trained(data):
    x_train, y_train, x_test = (np.asarray(v, np.float64) for v in data)
    predict_fn = nt.predict.gradient_descent_mse_ensemble(fully_connected().kernel_fn, x_train, y_train, diag_reg=1e-4)
    nngp, ntk = predict_fn(x_test=x_test, get=("nngp", "ntk"), compute_cov=True)
    assert nngp.mean.shape == ntk.mean.shape == (6, 1)
    assert nngp.covariance.shape == (6, 6)
    early = predict_fn(t=10.0, x_test=x_test, get="ntk")
    late = predict_fn(t=1e9, x_test=x_test, get="ntk")
    assert np.abs(late - ntk.mean).max() < 1e-3 < np.abs(early - ntk.mean).max()


def block(channels, strides=(1, 1), project=False):
    main = stax.serial(
        stax.Relu(), stax.Conv(channels, (3, 3), strides, padding="SAME"), stax.Relu(),
        stax.Conv(channels, (3, 3), padding="SAME"),
    )  # fmt: skip
    shortcut = stax.Conv(channels, (3, 3), strides, padding="SAME") if project else stax.Identity()
    return stax.serial(stax.FanOut(2), stax.parallel(main, shortcut), stax.FanInSum())


def test_a_residual_network_on_images():
    groups = [block(16, project=True), block(32, (2, 2), project=True), block(32)]
    _, _, kernel_fn = stax.serial(
        stax.Conv(16, (3, 3), padding="SAME"), *groups, stax.AvgPool((4, 4)), stax.Flatten(), stax.Dense(10, 1.0, 0.0)
    )
    x = jax.random.normal(jax.random.PRNGKey(2), (3, 8, 8, 3))
    kernel = kernel_fn(x, None, ("nngp", "ntk"))
    assert kernel.ntk.shape == (3, 3)
    assert np.linalg.eigvalsh(np.asarray(kernel.ntk, np.float64)).min() > 0


def test_a_masked_text_network_with_attention():
    x = np.array(jax.random.normal(jax.random.PRNGKey(3), (4, 7, 5)), np.float64)
    for sentence, length in zip(x, (7, 5, 4, 6), strict=True):
        sentence[length:] = 100.0
    _, _, kernel_fn = stax.serial(
        stax.Conv(32, (3,), padding="SAME"), stax.Relu(),
        stax.GlobalSelfAttention(32, n_chan_key=16, n_chan_val=16, n_heads=4, pos_emb_type="SUM", val_pos_emb=True),
        stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1),
    )  # fmt: skip
    kernel = kernel_fn(x, None, mask_constant=100.0)
    assert kernel.nngp.shape == (4, 4)
    assert kernel_fn(x, x[:2], "ntk", mask_constant=100.0).shape == (4, 2)
