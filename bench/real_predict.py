"""Classes of MNIST and Fashion-MNIST by exact inference: NNGP, NTK and RBF, error and calibration. How: README.md."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastntk import predict, stax
from fastntk.predict import SearchWarning
from real_images import Split
from reports import RESULTS, context, data_folder, noise_line, write_json
from run import busy, others
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

CLASSES = 10
DEPTHS = (1, 2, 3, 5, 8)
BIASES = (0.0, 0.5)
SCALES = (0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)  # of the median distance between training images
REGS = tuple(10.0 ** np.arange(-6.0, 0.1, 0.5))
METHODS = ("nngp", "ntk", "rbf")

Array = np.ndarray


@dataclass(frozen=True)
class DataSet:
    file: str
    train: int
    test: int


DATA = {
    "mnist": DataSet("mnist.npz", 5000, 10000),
    "fashion-mnist": DataSet("fashion_mnist_small.npz", 10000, 10000),
}


@dataclass(frozen=True)
class Candidate:
    """A kernel with its hyper-parameters: ``gram(x1, x2)``, x2 None for x1 again, and its diagonal."""

    what: dict[str, float]
    gram: Callable[[Array, Array | None], Array]
    diagonal: Callable[[Array], Array]


def network(name: str, depth: int, b_std: float) -> Candidate:
    """NNGP or NTK of a dense ReLU network."""
    layers = [stax.Dense(1, 2**0.5, b_std), stax.Relu()] * depth
    kernel_fn = stax.serial(*layers, stax.Dense(1, 2**0.5, b_std)).kernel_fn
    return Candidate(
        {"depth": depth, "b_std": b_std},
        lambda x1, x2: kernel_fn(x1, x2, name),
        lambda x: kernel_fn.diagonal(x, name),
    )


def rbf(lengthscale: float) -> Candidate:
    """exp(-|x - x'|^2 / (2 lengthscale^2)), by scikit-learn."""
    gamma = 0.5 / lengthscale**2
    return Candidate(
        {"lengthscale": lengthscale},
        lambda x1, x2: rbf_kernel(x1, x2, gamma=gamma),
        lambda x: np.ones(len(x), x.dtype),
    )


def candidates(method: str, x: Array) -> Iterator[Candidate]:
    if method != "rbf":
        yield from (network(method, depth, b_std) for depth in DEPTHS for b_std in BIASES)
        return
    distances = euclidean_distances(x[:1000])
    median = float(np.median(distances[np.triu_indices(len(distances), 1)]))
    yield from (rbf(scale * median) for scale in SCALES)


def choose(method: str, x: Array, y: Array) -> tuple[Candidate, float, dict[str, Any]]:
    """The candidate and the regularisation of the least leave-one-out squared error on the training images given."""
    start, rows = time.perf_counter(), []
    best: tuple[float, Candidate, float] | None = None
    for candidate in candidates(method, x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SearchWarning)  # kept in the table instead
            found = predict.select_diag_reg(candidate.gram(x, None), y, REGS)
        error = float(found.mean_squared_error.min())
        rows.append({**candidate.what, "diag_reg": found.diag_reg, "error": error, "edge": found.at_edge})
        if best is None or error < best[0]:
            best = error, candidate, found.diag_reg
    assert best is not None
    return best[1], best[2], {"images": len(x), "tried": rows, "seconds": time.perf_counter() - start}


def quality(mean: Array, variance: Array, labels: Array, temperature: float) -> dict[str, float]:
    log_p = predict.log_class_probabilities(mean, variance, temperature)
    return {
        "nll": predict.negative_log_likelihood(log_p, labels),
        "ece": predict.expected_calibration_error(np.exp(log_p), labels),
    }


def study(method: str, split: Split, chosen: int) -> dict[str, Any]:
    """From images to error and calibration, and what each part took."""
    x, x_test = (images.reshape(len(images), -1) for images in (split.x_train, split.x_test))
    labels, labels_test = (values.astype(np.int64) for values in (split.y_train, split.y_test))
    y = predict.one_hot(labels, CLASSES)
    candidate, reg, choice = choose(method, x[:chosen], predict.one_hot(labels[:chosen], CLASSES))

    marks = [time.perf_counter()]
    k, cross, prior = candidate.gram(x, None), candidate.gram(x_test, x), candidate.diagonal(x_test)
    marks.append(time.perf_counter())
    # A kernel given as an array is the prior's covariance, whichever it is: of 'ntk' a GP with the NTK.
    predictor = predict.gp_inference(k, y, reg)
    mean, variance = predictor("nngp", cross, prior)
    wrong = float(np.mean(mean.argmax(axis=1) != labels_test))
    marks.append(time.perf_counter())
    # Amplitude and temperature from the training images, each predicted from the others.
    held = predict.leave_one_out(k, y, reg, amplitude=None)
    temperature = predict.calibrate(held.mean, held.variance, labels)
    noisy = held.amplitude * (variance + reg * k.diagonal().mean())
    quality_plain = quality(mean, noisy, labels_test, 1.0)
    quality_tempered = quality(mean, noisy, labels_test, temperature)
    marks.append(time.perf_counter())
    return {
        "chosen": {**candidate.what, "diag_reg": reg}, "choice": choice, "error": wrong, "temperature": temperature,
        "plain": quality_plain, "calibrated": quality_tempered,
        "leave_one_out_error": float(np.mean(held.mean.argmax(axis=1) != labels)),
        "conditioning": asdict(predictor.conditioning["nngp"]),
        "seconds": dict(zip(("kernels", "solve_and_predict", "calibrate"), np.diff(marks).tolist(), strict=True)),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="data sets: " + ", ".join(DATA))
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA), help="default: all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="default: all")
    parser.add_argument("--train", type=int, help="at most so many training images; default 5000 and 10000")
    parser.add_argument("--test", type=int, help="at most so many test images; default all 10000")
    parser.add_argument("--choose", type=int, default=2000, help="images of the choice (default 2000)")
    parser.add_argument("--out", type=Path, default=RESULTS / "real-predict.json")
    given = parser.parse_args()
    folder = data_folder(*(DATA[name].file for name in given.data))

    report: dict[str, Any] = {**context(), "data": {}}
    for name in given.data:
        data, start, before = DATA[name], time.perf_counter(), busy()
        train, test = min(data.train, given.train or data.train), min(data.test, given.test or data.test)
        split = Split.load(folder / data.file, train, test, False)
        print(f"{name}: {train} train, {test} test", flush=True)
        rows = {}
        for method in given.methods:
            rows[method] = row = study(method, split, given.choose)
            chosen = ", ".join(f"{key} {value:.3g}" for key, value in row["chosen"].items())
            print(
                f"  {method}: error {100 * row['error']:.2f} %, NLL {row['calibrated']['nll']:.3f}, ECE "
                f"{100 * row['calibrated']['ece']:.2f} % (before calibration {row['plain']['nll']:.3f}, "
                f"{100 * row['plain']['ece']:.2f} %); {chosen}; choice {row['choice']['seconds']:.1f} s, "
                + ", ".join(f"{key} {value:.1f} s" for key, value in row["seconds"].items()),
                flush=True,
            )
        report["data"][name] = {
            "file": data.file, "train": train, "test": test, "methods": rows,
            "seconds": time.perf_counter() - start, "others_busy": others(before),
        }  # fmt: skip
        print(f"  {report['data'][name]['seconds']:.0f} s end to end", flush=True)
        noise_line(report["data"][name]["others_busy"])
    write_json(report, given.out)
    print(f"written: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
