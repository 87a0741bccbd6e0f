"""Prediction with the kernels of infinite networks: Neural Tangents' ``predict``, and what stands around it.

Needs SciPy (the extra ``fastntk[predict]``).
"""

try:
    import scipy as _scipy  # noqa: F401
except ImportError as error:
    raise ImportError("fastntk.predict needs SciPy (pip install 'fastntk[predict]')") from error

from .linalg import Conditioning, IllConditionedWarning, IndefiniteError

__all__ = ["Conditioning", "IllConditionedWarning", "IndefiniteError"]
