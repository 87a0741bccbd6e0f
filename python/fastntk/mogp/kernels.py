"""Random kernels of infinitely wide node-scaled networks.

The network: ``Z^1_k = (1 / sqrt(d)) sum_i V^1_ki x_i + B^1_k`` and, behind a hidden layer of width p,
``Z^(l+1)_k = sum_j sqrt(lam_pj) V^(l+1)_kj phi(Z^l_j) + B^(l+1)_k``, ``V ~ N(0, sigma_v2)``, ``B ~ N(0, sigma_b2)``,
``lam`` the node variances of a :class:`~fastntk.mogp.LevyMeasure`. In the limit of infinite widths, one layer after
the other, outputs are independent Gaussian processes given a random kernel (Lee et al., arXiv:2205.08187):

``K^(l+1)(x, x') = sigma_b2 + sigma_v2 (a k_phi(K^l)(x, x') + sum_j lam_j phi(zeta_j(x)) phi(zeta_j(x')))``,

``lam_j`` the points of the measure, ``zeta_j ~ GP(0, K^l)`` independent, ``k_phi`` the dual of phi. Here the largest
points are drawn and the others enter ``a`` by their mean (:meth:`~fastntk.mogp.LevyMeasure.sample_atoms`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.linalg import lapack

from ..base.arraylike import describe
from ..base.checks import Array, count, generator, not_negative, positive, rows
from ..base.options import one_blas_thread
from ..base.progress import bar
from ..dual import dual
from ..network.activation_like import layer_named, smooth_of
from ..network.activations import ABRelu, Erf, Nonlinearity, Relu
from .atoms import Atoms
from .measures import LevyMeasure

_CHUNK = 2**22  # numbers in the largest array of a chunk of draws


@dataclass(frozen=True)
class Layer:
    """A hidden layer: its nodes and what leads away from them.

    Parameters
    ----------
    measure : LevyMeasure
        Law of the nodes' variances.
    activation : nonlinearity of fastntk.stax, or the name of one
    sigma_v2, sigma_b2 : float
        Variances of the weights V and the biases B behind the nodes; ``sigma_b2 = 0``: no biases.
    """

    measure: LevyMeasure
    activation: Nonlinearity = field(default_factory=Relu)
    sigma_v2: float = 1.0
    sigma_b2: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.measure, LevyMeasure):
            raise TypeError(f"[Layer] measure must be a LevyMeasure such as Beta(2.0), given {describe(self.measure)}")
        object.__setattr__(self, "activation", layer_named(self.activation))
        if not isinstance(self.activation, Nonlinearity):
            raise TypeError(
                f"[Layer] activation must be a nonlinearity such as stax.Relu(), given {describe(self.activation)}"
            )
        object.__setattr__(self, "sigma_v2", positive(self.sigma_v2, "sigma_v2", "Layer"))
        object.__setattr__(self, "sigma_b2", not_negative(self.sigma_b2, "sigma_b2", "Layer"))

    def phi(self, z: Array) -> Array:
        """The nonlinearity."""
        return np.asarray(self.activation.apply((), z, np))

    def dphi(self, z: Array) -> Array:
        """The derivative of the nonlinearity; at a kink of straight pieces that from below."""
        act = self.activation
        if isinstance(act, ABRelu):
            return np.where(z > 0, act.b, act.a)
        if isinstance(act, Erf):
            return np.asarray(2 / math.sqrt(math.pi) * act.a * act.b * np.exp(-((act.b * z) ** 2)))
        return np.asarray(smooth_of(act).dphi(z))

    def smooth(self, k: Array) -> tuple[Array, Array]:
        """``(k_phi, kdot_phi)`` of kernels (..., n, n)."""
        q = np.ascontiguousarray(np.diagonal(k, axis1=-2, axis2=-1))
        found, slope = dual(self.activation, q[..., :, None], k, q[..., None, :])
        return np.asarray(found), np.asarray(slope)


def layers_of(layers: Any, what: str) -> tuple[Layer, ...]:
    """Layers, or tuples of their arguments.

    Raises
    ------
    TypeError, ValueError
        None at all; what is not a Layer or does not make one.
    """
    if isinstance(layers, Layer) or not isinstance(layers, Sequence) or not layers:
        raise TypeError(f"[{what}] layers must be a list of mogp.Layer, at least one; given {layers!r}")
    return tuple(one if isinstance(one, Layer) else Layer(*one) for one in layers)


@dataclass(frozen=True)
class Problem:
    """Arguments that all samplers share, checked."""

    first: Array  # (n, n), K^1
    layers: tuple[Layer, ...]
    n_samples: int
    n_atoms: int
    rng: np.random.Generator
    what: str

    @classmethod
    def of(
        cls, x: Any, layers: Any, n_samples: Any, n_atoms: Any, rng: Any, sigma_v2: Any, sigma_b2: Any, what: str
    ) -> Problem:
        x = rows(x, "x", what)
        found = layers_of(layers, what)
        v, b = positive(sigma_v2, "sigma_v2", what), not_negative(sigma_b2, "sigma_b2", what)
        samples, atoms = count(n_samples, "n_samples", what), count(n_atoms, "n_atoms", what, 0)
        with np.errstate(over="ignore", invalid="ignore"):
            first = v / x.shape[1] * (x @ x.T) + b
        refuse_overflow(first, 0, what)
        return cls(first, found, samples, atoms, generator(rng, what), what)

    def chunks(self, width: int, total: int | None = None) -> Iterator[int]:
        """Numbers of draws made together, whose largest array has n ``width`` numbers each."""
        size = max(1, _CHUNK // (len(self.first) * max(width, len(self.first))))
        total = self.n_samples if total is None else total
        for start in range(0, total, size):
            yield min(size, total - start)


def refuse_overflow(k: Array, depth: int, what: str) -> None:
    """Raise OverflowError where a kernel has left float64's range."""
    if not np.isfinite(k).all():
        where = f"behind hidden layer {depth}" if depth else "of the inputs"
        raise OverflowError(
            f"[{what}] a kernel {where} exceeds float64: its measures' tails, or the inputs, are too large"
        )


def factor(k: Array, *, continuous: bool = False) -> Array:
    """C with ``C C^T = K`` for positive semi-definite K (..., n, n): Cholesky with pivots, of the correlations.

    Columns beyond the rank, to rounding, and rows of zero variance are zero: what is singular stays so exactly.
    ``continuous``: the symmetric root instead, which does not jump with K as pivots do.
    """
    flat = k.reshape(-1, *k.shape[-2:])
    deviation = np.sqrt(np.maximum(np.diagonal(flat, axis1=1, axis2=2), 0))
    inverse = 1 / np.where(deviation > 0, deviation, np.inf)
    correlation = flat * inverse[:, :, None] * inverse[:, None, :]
    if continuous:
        values, vectors = np.linalg.eigh(correlation)
        found = vectors * np.sqrt(np.maximum(values, 0))[:, None, :] @ np.swapaxes(vectors, 1, 2)
    else:
        found = np.zeros(flat.shape)
        n = flat.shape[-1]
        for i, matrix in enumerate(correlation):
            lower, pivots, rank, _ = lapack.dpstrf(matrix.T, tol=n * np.finfo(np.float64).eps, lower=1, overwrite_a=1)
            lower[:, rank:] = 0
            found[i, pivots - 1] = np.tril(lower)
    found *= deviation[:, :, None]
    return np.asarray(found.reshape(k.shape))


def weighted_gram(features: Array, variances: Array) -> Array:
    """``sum_j lam_j F_ij F_i'j``: features (..., n, J), variances (..., J)."""
    scaled = features * np.sqrt(variances)[..., None, :]
    return np.asarray(scaled @ np.swapaxes(scaled, -1, -2))


def symmetric(k: Array) -> Array:
    """Both halves made the same."""
    return np.asarray((k + np.swapaxes(k, -1, -2)) / 2)


def alive(atoms: Atoms) -> Any:
    """Columns of points that some draw has."""
    return atoms.variances.any(axis=0)


def next_kernel(layer: Layer, k: Array, atoms: Atoms, noise: Array, *, continuous: bool = False) -> Array:
    """Kernels (s, n, n) behind a hidden layer, from those before it, (s, n, n) or (n, n), and noise (s, n, J)."""
    zeta, used = None, alive(atoms)
    if used.any():
        c = factor(k, continuous=continuous)
        if c.ndim == 2:  # one factor for all draws: a single product
            flat = c @ np.moveaxis(noise[..., used], 1, 0).reshape(len(c), -1)
            zeta = np.moveaxis(flat.reshape(len(c), len(noise), -1), 0, 1)
        else:
            zeta = c @ noise[..., used]
    return kernel_behind(layer, k, atoms, zeta, len(noise))


def kernel_behind(layer: Layer, k: Array, atoms: Atoms, zeta: Array | None, draws: int) -> Array:
    """Kernels (s, n, n) from those before a hidden layer and its nodes' pre-activations (s, n, points alive)."""
    gram: Any = 0.0
    if zeta is not None:
        gram = weighted_gram(layer.phi(zeta), atoms.variances[:, alive(atoms)])
    if atoms.bulk.any():
        gram = gram + atoms.bulk[:, None, None] * layer.smooth(k)[0]
    found = symmetric(layer.sigma_b2 + layer.sigma_v2 * (gram if np.ndim(gram) else np.zeros_like(k)))
    return np.broadcast_to(found, (draws, *k.shape[-2:]))


def draw(problem: Problem, progress: bool = False) -> Iterator[Array]:
    """Kernels (s, n, n) of the outputs, chunk by chunk."""
    n = len(problem.first)
    with bar(problem.n_samples, progress, "draw") as report:
        for size in problem.chunks(problem.n_atoms):
            k = problem.first
            with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):
                for depth, layer in enumerate(problem.layers, 1):
                    atoms = layer.measure.sample_atoms(size, problem.n_atoms, problem.rng)
                    noise = problem.rng.standard_normal((size, n, problem.n_atoms))
                    k = next_kernel(layer, k, atoms, noise)
                    refuse_overflow(k, depth, problem.what)
            yield k
            report(size)


def sample_kernels(
    x: Any, layers: Any, n_samples: int, n_atoms: int, rng: Any, *,
    sigma_v2: float = 1.0, sigma_b2: float = 0.0, progress: bool = False,
) -> Array:  # fmt: skip
    """Draws of the random kernel of an infinitely wide node-scaled network.

    Parameters
    ----------
    x : numpy.ndarray (n, d)
        Inputs, finite.
    layers : list of Layer, or of tuples (measure, activation, sigma_v2, sigma_b2)
        The hidden layers, the first one first.
    n_samples : int
    n_atoms : int
        Nodes of each hidden layer that are drawn; all others together are replaced by their mean. With 0 the kernel
        is that of the Gaussian process with variance ``a + moment(1)``.
    rng : numpy.random.Generator or int
        The same seed and arguments give the same draws.
    sigma_v2, sigma_b2 : float
        Variances of the weights and biases before the first hidden layer: ``K^1 = sigma_v2 x x^T / d + sigma_b2``.
    progress : bool
        Show draws done and to do.

    Returns
    -------
    numpy.ndarray (n_samples, n, n), float64
        ``K(x, x')``, the covariance of each output given the draw; exactly symmetric. Where no node is active
        (:class:`Bernoulli`) it is ``sigma_b2`` exactly.

    Raises
    ------
    TypeError, ValueError
        Arguments outside their domain; NaN or infinity in ``x``; ``n_atoms = 0`` where a measure's mean is infinite.
    OverflowError
        A draw beyond float64: stable measures of small alpha reach there.

    Notes
    -----
    Products are small and many: where threadpoolctl is installed BLAS makes each on one thread, which is faster.

    What replacing the small nodes by their mean leaves out: see :meth:`LevyMeasure.sample_atoms`. Rounding enters
    where a kernel is factorised: relative to ``sqrt(K(x, x) K(x', x'))``, n eps.
    """
    problem = Problem.of(x, layers, n_samples, n_atoms, rng, sigma_v2, sigma_b2, "sample_kernels")
    n = len(problem.first)
    found = np.empty((problem.n_samples, n, n))
    start = 0
    for k in draw(problem, progress):
        found[start : start + len(k)] = k
        start += len(k)
    return found


@dataclass(frozen=True)
class PruneError:
    """What pruning the nodes of variance below ``eps`` takes away.

    Attributes
    ----------
    eps : float
    lost : float
        Expected sum of the variances pruned, ``a + small_mean(eps)``. ``sigma_v2 k_phi`` times that is the mean squared
        change of an output, of the same network with one hidden layer.
    mean : float
        Expected sum of all variances, ``a + moment(1)``, which may be infinite.
    compressible : bool
        Whether ``lost`` vanishes with eps: no drift.
    """

    eps: float
    lost: float
    mean: float
    compressible: bool

    @property
    def fraction(self) -> float:
        """``lost / mean``.

        Raises
        ------
        ValueError
            Where the mean is infinite.
        """
        if not math.isfinite(self.mean):
            raise ValueError("[PruneError.fraction] the mean of the variances is infinite: moment(1) = inf; see lost")
        return self.lost / self.mean


def prune_error(measure: LevyMeasure, eps: float) -> PruneError:
    """Error of pruning the nodes of variance below ``eps`` in the limit of infinite width.

    Parameters
    ----------
    measure : LevyMeasure
    eps : float, not negative

    Returns
    -------
    PruneError

    Raises
    ------
    TypeError, ValueError
        Not a measure; eps negative, NaN or infinite.

    Notes
    -----
    A drift consists of nodes that are below any eps: it is lost whole. That networks with points are compressible is
    the paper's (arXiv:2205.08187); the formulas are derived here.
    """
    if not isinstance(measure, LevyMeasure):
        raise TypeError(f"[prune_error] measure must be a LevyMeasure, given {describe(measure)}")
    at = not_negative(eps, "eps", "prune_error")
    lost = measure.a + (measure.small_mean(at) if at else 0.0)
    return PruneError(at, lost, measure.a + measure.moment(1), measure.a == 0)
