"""What a module says of a name that it does not have: the nearest one that it has, or what to use instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

# Names of Neural Tangents' stax, and those of layers elsewhere, that are not implemented: what comes nearest.
_DUAL = "Activation(fn) takes any function"
STAX: dict[str, str] = {
    "Heaviside": "RectifiedMonomial(0)",
    "BatchNorm": "LayerNorm normalises each sample alone",
    "MaxPool": "its kernel has no closed form: AvgPool",
    **dict.fromkeys(("MaskedArray", "unmask_fn", "supports_masking"), "kernel_fn takes mask_constant"),
    **dict.fromkeys(("layer", "requires", "Diagonal", "Bool"), "layers are subclasses of stax.Layer"),
    **dict.fromkeys(("Softmax", "LogSoftmax"), "fastntk.predict.class_probabilities, of a prediction"),
    "Linear": "Dense",
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d", "Conv1D", "Conv2D", "Conv3D"), "Conv"),
    **dict.fromkeys(("Sequential", "Compose"), "serial"),
}


def missing(module: str, name: str, known: Sequence[str], instead: Mapping[str, str] | None = None) -> AttributeError:
    """The error of a name that a module does not have, to raise from its ``__getattr__``."""
    if name.startswith("_"):  # Python's own questions
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    lowered = {k.lower(): k for k in reversed(known)}
    folded = {k.lower(): v for k, v in (instead or {}).items()} | dict(instead or {})
    close = difflib.get_close_matches(name.lower(), lowered, 1, 0.7)
    if name in folded or (name.lower() in folded and name.lower() not in lowered):
        hint = f"; instead: {folded.get(name, folded.get(name.lower()))}"
    else:
        hint = f"; the nearest name is {lowered[close[0]]}" if close else ""
    return AttributeError(f"{module}.{name} is not implemented{hint}. There are {', '.join(known)}")
