"""scikit-learn estimators of infinitely wide networks, and their kernels as scikit-learn's ``Kernel``.

Needs scikit-learn and SciPy (the extra ``fastntk[sklearn]``).
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("fastntk.sklearn needs scikit-learn (pip install 'fastntk[sklearn]')") from error

from ..base.door import doors
from .classification import NNGPClassifier, NTKClassifier
from .kernel import InfiniteWidthKernel
from .regression import NNGPRegressor, NTKRegressor

__all__ = ["InfiniteWidthKernel", "NNGPClassifier", "NNGPRegressor", "NTKClassifier", "NTKRegressor"]

doors(globals())
