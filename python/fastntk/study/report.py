"""The study as text, as Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from .claims import claims
from .experiment import Row, Score, Study

_HEAD = ("model", "width", "diag_reg", "test acc. %", "train acc. %", "test MSE", "train MSE", "distance", "note")


def _score(score: Score | None, factor: float = 1.0, digits: int = 2) -> str:
    if score is None:
        return "-"
    text = f"{factor * score.mean:.{digits}f}"
    return text if score.error is None else f"{text} ± {factor * score.error:.{digits}f}"


def _note(row: Row) -> str:
    if not row.diverged:
        return ""
    where = f"step {row.diverged_at}, rate {row.rate:.3g}"
    return f"diverged ({where})" if row.diverged == row.networks else f"{row.diverged} of {row.networks}: {where}"


def _cells(row: Row) -> tuple[str, ...]:
    name = f"{row.name}, ensemble of {row.networks}" if row.kind == "ensemble" else row.name
    return (
        name, "inf" if row.width is None else str(row.width), "" if row.diag_reg is None else f"{row.diag_reg:g}",
        _score(row.test_accuracy, 100, 1), _score(row.train_accuracy, 100, 1), _score(row.test_mse, digits=4),
        _score(row.train_mse, digits=4), _score(row.distance, digits=3), _note(row),
    )  # fmt: skip


def _about(study: Study) -> str:
    return (
        f"{study.n_train} {study.data} to train, {study.n_test} to test; {study.layers}; "
        f"W_std {study.w_std:.4g}, b_std {study.b_std:.4g}; {study.steps} steps; {study.n_ensemble} networks each"
    )


def text(study: Study) -> str:
    """A table in columns, for a terminal, and what the study's claims are and show."""
    lines = [_HEAD, *(_cells(row) for row in study.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        [_about(study), ""]
        + ["  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        + ["", *map(str, claims(study))]
    )


def markdown(study: Study) -> str:
    """A table of GitHub's Markdown under one line on data and networks, and the claims."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(_cells(row) for row in study.rows)]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    found = "\n".join(f"- {claim}" for claim in claims(study))
    return f"{_about(study)}\n\n{table}\n" + (f"\n{found}\n" if found else "")


def as_json(study: Study) -> str:
    """Everything in the study; what diverged is null."""
    held = {**asdict(study), "claims": [asdict(claim) for claim in claims(study)]}
    return json.dumps(held, indent=1, allow_nan=False) + "\n"
