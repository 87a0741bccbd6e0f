"""What the empirical study of finite and infinite networks says, beside what is seen in one of ours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .experiment import Configuration, Row, Study
from .panels import Claim


def _best(study: Study, name: str) -> tuple[float, float] | None:
    """The best test accuracy of a kernel over its grid, and the least test MSE; chosen on the test set."""
    rows = [row for row in study.rows if row.kind == "kernel" and row.name == name and row.diag_reg is not None]
    found = [(r.test_accuracy.mean, r.test_mse.mean) for r in rows if r.test_accuracy and r.test_mse]
    return (max(a for a, _ in found), min(m for _, m in found)) if found else None


def _named(study: Study, holds: str) -> Configuration | None:
    return next((c for c in study.configurations if c.name == holds), None)


def _accuracy(row: Row) -> float:
    return row.test_accuracy.mean if row.test_accuracy else math.nan


def _distance(row: Row) -> float:
    return row.distance.mean if row.distance else math.nan


def _known(*values: float) -> bool:
    return all(map(math.isfinite, values))


def claims(study: Study) -> Sequence[Claim]:
    """Conclusions of Lee et al. (2020) that the study's configurations speak of, at its largest width.

    Parameters
    ----------
    study : Study

    Returns
    -------
    sequence of Claim
        Fewer where configurations of :func:`one_at_a_time` are missing or all their networks diverged.
    """
    width, found = max(study.widths), []
    rows = {
        (c.name, kind): study.find(c.name, kind, width) for c in study.configurations for kind in ("single", "ensemble")
    }
    nngp, ntk, stopped = (_best(study, name) for name in ("NNGP", "NTK", "NTK stopped"))
    networks = [_accuracy(row) for row in rows.values() if math.isfinite(_accuracy(row))]
    dense = study.network == "dense"
    if nngp and ntk and networks:
        kernel, net = max(nngp[0], ntk[0]), max(networks)
        found.append(Claim(
            f"{study.network} kernels {'beat' if dense else 'lose to'} {study.network} networks",
            f"best kernel {kernel:.3f}, best networks {net:.3f}", (kernel > net) == dense,
        ))  # fmt: skip
        found.append(Claim(
            "the NNGP does as well as the NTK", f"{nngp[0]:.3f}, {ntk[0]:.3f}", nngp[0] >= ntk[0] - 0.005
        ))  # fmt: skip
    if ntk and stopped:
        found.append(Claim(
            "a ridge does what early stopping does",
            f"least test MSE {ntk[1]:.4f} with diag_reg, {stopped[1]:.4f} stopped", abs(ntk[1] / stopped[1] - 1) < 0.05,
        ))  # fmt: skip
    base = _named(study, "base")
    if base is None:
        return found
    single, ensemble = rows["base", "single"], rows["base", "ensemble"]
    if _known(a := _accuracy(single), b := _accuracy(ensemble)):
        found.append(Claim("ensembles do better than their networks", f"{b:.3f}, {a:.3f}", b >= a))
    for name, kind, said, farther in (
        ("centered", "single", "centering brings networks nearer to the kernel's prediction", False),
        ("large rate", "ensemble", "a large learning rate takes networks away from it", True),
        ("L2", "ensemble", "L2 takes networks away from it", True),
    ):
        if (name, kind) not in rows:
            continue
        a, b = _distance(rows["base", kind]), _distance(rows[name, kind])
        if _known(a, b):
            found.append(Claim(said, f"distance {b:.3f}, of the base {a:.3f}", (b > a) == farther))
    for name, said in (
        ("augmented", "augmentation helps networks"),
        ("standard", "the NTK parameterization is better"),
    ):
        if (name, "ensemble") in rows and _known(a := _accuracy(ensemble), b := _accuracy(rows[name, "ensemble"])):
            better = b > a if name == "augmented" else a > b
            found.append(Claim(said, f"accuracy {b:.3f}, of the base {a:.3f}", better))
    helped = _best(study, "augmented NTK")
    if helped and ntk:
        found.append(
            Claim("augmentation helps kernels", f"NTK {helped[0]:.3f}, without {ntk[0]:.3f}", helped[0] > ntk[0])
        )
    return found
