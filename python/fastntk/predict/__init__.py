"""Prediction with the kernels of infinite networks: Neural Tangents' ``predict``, and what stands around it.

Needs SciPy (the extra ``fastntk[predict]``).
"""

from typing import NoReturn

try:
    import scipy as _scipy  # noqa: F401
except ImportError as error:
    raise ImportError("fastntk.predict needs SciPy (pip install 'fastntk[predict]')") from error

from ..base.door import doors
from ..base.names import missing
from .classify import (
    Reliability,
    calibrate,
    class_probabilities,
    expected_calibration_error,
    log_class_probabilities,
    negative_log_likelihood,
    one_hot,
    reliability,
)
from .ensemble import gradient_descent_mse_ensemble
from .evidence import (
    DiagRegSelection,
    LeaveOneOut,
    LogMarginalLikelihood,
    SearchWarning,
    leave_one_out,
    log_marginal_likelihood,
    select_diag_reg,
)
from .fit import Fit, fit, fully_connected
from .iterative import ConvergenceError, conjugate_gradient
from .linalg import Conditioning, IllConditionedWarning, IndefiniteError
from .low_rank import nystrom
from .mse import gradient_descent_mse, max_learning_rate
from .ode import ODEState, gradient_descent
from .posterior import Gaussian, gp_inference, sample
from .search import Evaluation
from .slopes import EvidenceGradient, LeaveOneOutGradient

__all__ = [
    "Conditioning",
    "ConvergenceError",
    "DiagRegSelection",
    "Evaluation",
    "EvidenceGradient",
    "Fit",
    "Gaussian",
    "IllConditionedWarning",
    "IndefiniteError",
    "LeaveOneOut",
    "LeaveOneOutGradient",
    "LogMarginalLikelihood",
    "ODEState",
    "Reliability",
    "SearchWarning",
    "calibrate",
    "class_probabilities",
    "conjugate_gradient",
    "expected_calibration_error",
    "fit",
    "fully_connected",
    "gp_inference",
    "gradient_descent",
    "gradient_descent_mse",
    "gradient_descent_mse_ensemble",
    "leave_one_out",
    "log_class_probabilities",
    "log_marginal_likelihood",
    "max_learning_rate",
    "negative_log_likelihood",
    "nystrom",
    "one_hot",
    "reliability",
    "sample",
    "select_diag_reg",
]


def __getattr__(name: str) -> NoReturn:
    raise missing("fastntk.predict", name, __all__)


doors(globals())
