"""``fastntk demo``: exact inference with the kernels of a deep network on real data, a table and a picture.

Needs the extra ``fastntk[demo]``: SciPy, Matplotlib, tqdm, threadpoolctl, and scikit-learn for its bundled digits.
"""

from .data import DemoError, Problem, load_digits, load_npz
from .experiment import Result, Settings, evaluate
from .run import run

__all__ = ["DemoError", "Problem", "Result", "Settings", "evaluate", "load_digits", "load_npz", "run"]
