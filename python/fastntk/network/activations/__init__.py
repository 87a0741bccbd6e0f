"""The nonlinearities, family by family; compiled text: ``csrc/math/duals/``, a header for each family.

``__all__`` names the layers, which ``fastntk.stax`` offers.
"""

from . import elementwise, error_function, exponential, gaussian, gelu, general, periodic, polynomials, rectifiers
from .elementwise import *  # noqa: F403
from .error_function import *  # noqa: F403
from .exponential import *  # noqa: F403
from .fitted import General as General
from .gaussian import *  # noqa: F403
from .gelu import *  # noqa: F403
from .general import *  # noqa: F403
from .general import GENERAL as GENERAL
from .nonlinearity import NONLINEARITIES as NONLINEARITIES
from .nonlinearity import Correlation as Correlation
from .nonlinearity import Nonlinearity as Nonlinearity
from .nonlinearity import bare_of as bare_of
from .nonlinearity import is_dual as is_dual
from .nonlinearity import is_homogeneous as is_homogeneous
from .nonlinearity import is_positive as is_positive
from .nonlinearity import of_dual as of_dual
from .nonlinearity import of_input as of_input
from .nonlinearity import of_op as of_op
from .nonlinearity import rho_of as rho_of
from .nonlinearity import row_names_of_dual as row_names_of_dual
from .nonlinearity import signed_defect as signed_defect
from .periodic import *  # noqa: F403
from .polynomials import *  # noqa: F403
from .rectifiers import *  # noqa: F403

__all__ = []
__all__ += elementwise.__all__
__all__ += error_function.__all__
__all__ += exponential.__all__
__all__ += gaussian.__all__
__all__ += gelu.__all__
__all__ += general.__all__
__all__ += periodic.__all__
__all__ += polynomials.__all__
__all__ += rectifiers.__all__
