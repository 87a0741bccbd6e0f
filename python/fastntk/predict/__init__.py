"""Prediction with the kernels of infinite networks: Neural Tangents' ``predict``, and what stands around it.

Needs SciPy (the extra ``fastntk[predict]``).
"""

try:
    import scipy as _scipy  # noqa: F401
except ImportError as error:
    raise ImportError("fastntk.predict needs SciPy (pip install 'fastntk[predict]')") from error

from .ensemble import gradient_descent_mse_ensemble
from .linalg import Conditioning, IllConditionedWarning, IndefiniteError
from .mse import gradient_descent_mse, max_learning_rate
from .posterior import Gaussian, gp_inference, sample

__all__ = [
    "Conditioning",
    "Gaussian",
    "IllConditionedWarning",
    "IndefiniteError",
    "gp_inference",
    "gradient_descent_mse",
    "gradient_descent_mse_ensemble",
    "max_learning_rate",
    "sample",
]
