"""The demo from arguments to a table and a picture."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from tqdm import tqdm

from ..base.files import check_output
from ..info import show_config
from .data import MIN_SAMPLES, DemoError, load_digits, load_npz, subsample
from .experiment import Convolution, Result, Settings, evaluate
from .picture import FORMATS, draw


def run(
    data: Path | None,
    out: Path,
    settings: Settings,
    *,
    task: str = "auto",
    images: bool = True,
    max_samples: int = 3000,
) -> Result:
    """Load, evaluate, print the table, write the picture.

    Parameters
    ----------
    data : pathlib.Path or None
        As for :func:`load_npz`; None: the digits.
    out : pathlib.Path
        Picture to write, replaced if it exists.
    settings : Settings
    task, images
        As for :func:`load_npz`.
    max_samples : int
        A larger data set is cut to a random part of this size.

    Returns
    -------
    Result

    Raises
    ------
    DemoError
        Anything that is wrong with the arguments, found before work starts.
    OSError
        A picture that cannot be written: the disk has become full.
    """
    begin = perf_counter()
    settings.check()
    if max_samples < MIN_SAMPLES:
        raise DemoError(f"--max-samples must be at least {MIN_SAMPLES}, given {max_samples}")
    try:
        check_output("--out", out, FORMATS)
    except ValueError as error:
        raise DemoError(str(error)) from None
    config = _config()
    problem = load_digits(images) if data is None else load_npz(data, task, images)
    whole = len(problem.x)
    problem = subsample(problem, max_samples, settings.seed)
    if len(problem.x) < whole:
        print(f"using {len(problem.x)} random samples of {whole} (--max-samples)")

    # Nothing is drawn where stderr is not a terminal.
    with tqdm(desc="kernels", unit="fit", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            if done == 0:
                bar.set_description("fits")
                bar.reset(total)
            bar.update(done - bar.n)

        result = evaluate(problem, settings, progress)
    print(table(result, config))
    start = perf_counter()
    draw(result, out)
    end = perf_counter()
    print(f"\npicture   {out} ({end - start:.1f} s)\ntotal     {end - begin:.1f} s")
    return result


def table(result: Result, config: dict[str, Any]) -> str:
    """The results as text.

    Parameters
    ----------
    result : Result
    config : dict
        Of ``fastntk.show_config(mode='dict')``.

    Returns
    -------
    str
    """
    problem, settings = result.problem, result.settings
    n, d = problem.x.shape
    n_train, n_test = len(result.train), len(result.test)
    curve = result.curve
    fits = sum(len(repeats) for scores in curve.scores.values() for repeats in scores[:-1])
    kind = "regression" if problem.classes is None else f"{len(problem.classes)} classes"
    lines = [
        f"fastntk   {config['version']}, backend {config['backend']}, instruction set {config['isa'] or 'none'}, "
        f"{config['num_threads']} threads",
        f"data      {n} {problem.name}, {d} features, {kind}; {n_train} to train, {n_test} to test",
        f"network   {settings.depth} x (Dense, Relu), Dense; W_std {settings.w_std:.4g}, b_std {settings.b_std:.4g}",
        f"kernels   {result.kernel_seconds:.2f} s for NNGP and NTK together, {n} x {n}, {result.gram.dtype}",
        *([] if result.convolution is None else [f"images    {_convolution(result.convolution, n)}"]),
        f"curve     {result.curve_seconds:.1f} s for {fits} fits",
        "",
    ]
    regression = problem.classes is None
    score, calibration = ("test RMSE", "in 95 % band") if regression else ("test accuracy", "calib. error")
    stages = list(result.models[0].seconds)
    lines.append(
        f"{'model':<7}{score:>15}{'neg. log lik.':>15}{calibration:>14}{'noise / k(x,x)':>16}{'temperature':>13}"
        + "".join(f"{stage + ' s':>13}" for stage in stages)
    )
    for model in result.models:
        # The grid's lower end: as good as none.
        noise = f"{'<= ' if model.selection.at_edge == 'lower' else ''}{model.selection.diag_reg:.1e}"
        lines.append(
            f"{model.name:<7}{_score(model.score, regression):>15}{model.nll:>15.4f}"
            f"{f'{100 * model.calibration:.1f} %':>14}{noise:>16}{model.temperature:>13.3f}"
            + "".join(f"{model.seconds[stage]:>13.2f}" for stage in stages)
        )
    lines += ["", *_training(result, score)]
    return "\n".join(lines)


def _training(result: Result, score: str) -> list[str]:
    """What training with each kernel comes to: where the test loss is least, and at the end."""
    regression = result.problem.classes is None
    runs = result.training
    seconds = sum(run.seconds for run in runs.values())
    steps = int(next(iter(runs.values())).steps[-1])
    lines = [
        f"training  {seconds:.1f} s for the mean network after up to {steps:,} steps, in closed form",
        f"{'model':<7}{'least test loss':>17}{'at step':>11}{score:>15}{'last train loss':>19}{'last test loss':>16}"
        f"{score:>15}",
    ]
    for name, run in runs.items():
        best = run.best
        lines.append(
            f"{name:<7}{run.test_loss[best]:>17.4g}{int(run.steps[best]):>11,}"
            f"{_score(run.score[best], regression):>15}{run.train_loss[-1]:>19.2g}{run.test_loss[-1]:>16.4g}"
            f"{_score(run.score[-1], regression):>15}"
        )
    return lines


def _score(value: float, regression: bool) -> str:
    return f"{value:.4g}" if regression else f"{100 * value:.2f} %"


def _convolution(found: Convolution, n: int) -> str:
    if found.ntk is None:
        return f"no convolutional network: {found.why}"
    return (
        f"{found.seconds:.1f} s for the NTK of 2 x (Conv 3 x 3, Relu), AvgPool 2 x 2, Flatten, Dense (CNTK), {n} x {n}"
    )


def _config() -> dict[str, Any]:
    config = show_config(mode="dict")
    assert config is not None
    if str(config["backend"]).startswith("none"):
        raise DemoError(f"no backend: {str(config['backend']).removeprefix('none: ')}")
    return config
