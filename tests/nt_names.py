"""Every public name of Neural Tangents 0.6.5 and where it stands here; ``python tests/nt_names.py`` writes the page.

A verdict is 'same', 'better' with what is beyond, or 'absent' with the reason.
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs/names.md"
HEAD = """# Neural Tangents' names

Every public name of Neural Tangents 0.6.5: the same here, better, or absent with the reason. What is the same but for a
detail has it in [differences](differences.md). Made and held by a test: `python tests/nt_names.py` writes it.
"""

_EXPERIMENTAL = "absent: prototypes of empirical kernels by function, which `empirical_ntk_fn` has"
_AUTHORS = "absent: layers are subclasses of `stax.Layer`, which say what they need in `lower`"

STAX = {
    **dict.fromkeys(
        [
            "Abs",
            "Relu",
            "LeakyRelu",
            "ABRelu",
            "Erf",
            "Exp",
            "Gabor",
            "Gaussian",
            "Gelu",
            "Identity",
            "Rbf",
            "Sigmoid_like",
            "Sign",
            "Sin",
            "Cos",
            "ExpNormalized",
            "FanOut",
            "FanInSum",
            "FanInConcat",
            "Flatten",
            "GlobalAvgPool",
            "GlobalSumPool",
            "serial",
            "parallel",
            "repeat",
            "Aggregate",
            "AggregateImplementation",
            "AttentionMechanism",
            "PositionalEmbedding",
            "Slice",
            "ConvLocal",
            "Dense",
        ],
        "same",
    ),
    "RectifiedMonomial": "better: numbers at rho = 1 and -1, where Neural Tangents has NaN",
    "Monomial": "better: every degree, not up to 5 alone",
    "Polynomial": "better: numbers at variances of 0",
    "Hermite": "same",
    "Elementwise": "same",
    "ElementwiseNumerical": "better: numbers at variances of 0",
    "Conv": "better: `dilation`, padding by numbers, integers for every axis",
    "ConvTranspose": "same",
    "AvgPool": "better: padding by numbers, integers for every axis",
    "SumPool": "better: padding by numbers, integers for every axis",
    "LayerNorm": "same, but that the axis of samples is refused: kernels would depend on the other samples of a call",
    "Dropout": "same",
    "GlobalSelfAttention": "better: `allowed` says which position may attend to which",
    "DotGeneral": "same, but that samples are no axis of it",
    "ImageResize": "better: cubic and Lanczos too, methods of any case, height and width never exchanged",
    "Index": "same, but that samples are indexed in the inputs or the kernel",
    "FanInProd": "same",
    "Padding": "same",
    "Bool": _AUTHORS,
    "Diagonal": _AUTHORS,
    "MaskedArray": "absent: `apply_fn` takes no masks, `kernel_fn` does",
    "unmask_fn": "absent: `apply_fn` takes no masks, `kernel_fn` does",
    "layer": _AUTHORS,
    "requires": _AUTHORS,
    "supports_masking": _AUTHORS,
}

TOP = {
    "Kernel": "same",
    "batch": "better: parts of any size, the last one what is left",
    "predict": "better: evidence, held-out errors, iterative solvers",
    "stax": "same",
    "monte_carlo_kernel_fn": "better: a `torch.nn.Module` too; one process, within a memory budget",
    "empirical_nngp_fn": "better: functions written in PyTorch too",
    "empirical_ntk_fn": "better: functions written in PyTorch too, tiles within a memory budget",
    "empirical_kernel_fn": "better: functions written in PyTorch too",
    "empirical_ntk_vp_fn": "better: functions written in PyTorch too",
    "NtkImplementation": "same, but that structured derivatives are those of Dense and Conv",
    "linearize": "better: functions written in PyTorch too",
    "taylor_expand": "better: functions written in PyTorch too",
    "experimental": _EXPERIMENTAL,
}

PREDICT = dict.fromkeys(
    [
        "Gaussian",
        "ODEState",
        "gradient_descent",
        "gradient_descent_mse",
        "gradient_descent_mse_ensemble",
        "gp_inference",
        "max_learning_rate",
    ],
    "same",
)

KERNEL = dict.fromkeys(
    [
        "nngp",
        "ntk",
        "cov1",
        "cov2",
        "x1_is_x2",
        "is_gaussian",
        "is_reversed",
        "is_input",
        "diagonal_batch",
        "diagonal_spatial",
        "shape1",
        "shape2",
        "batch_axis",
        "channel_axis",
        "mask1",
        "mask2",
        "replace",
        "asdict",
        "astuple",
        "slice",
        "reverse",
        "transpose",
        "mask",
        "dot_general",
    ],
    "same",
)

KERNEL_FN = {
    **dict.fromkeys(["x1_or_kernel", "x2", "get", "pattern", "mask_constant", "batch_axis", "channel_axis"], "same"),
    "diagonal_batch": "same",
    "diagonal_spatial": "better: where a network reads pairs of positions, what it gives keeps each with itself",
}

TABLES = {
    "neural_tangents": TOP, "stax": STAX, "predict": PREDICT, "Kernel": KERNEL, "kernel_fn": KERNEL_FN,
}  # fmt: skip


def page() -> str:
    """The page."""
    text = HEAD
    for title, names in TABLES.items():
        text += f"\n## {title}\n\n| name | |\n|---|---|\n"
        text += "".join(f"| `{name}` | {names[name]} |\n" for name in sorted(names, key=str.lower))
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
