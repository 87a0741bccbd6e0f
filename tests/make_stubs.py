"""Write python/fastntk/_cpu.pyi and _cuda.pyi from the compiled modules, by pybind11-stubgen and ruff."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What pybind11 says at length, in the words of the package.
SHORTER = {
    "typing.SupportsInt | typing.SupportsIndex": "int",
    "typing.SupportsFloat | typing.SupportsIndex": "float",
    "numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]": "numpy.typing.NDArray[typing.Any]",
    "typing.Annotated[numpy.typing.ArrayLike, numpy.float64]": "numpy.typing.NDArray[numpy.float64]",
}
BARE = {"dict": "dict[str, typing.Any]", "list": "list[typing.Any]"}


def main() -> None:
    for name in ("_cpu", "_cuda"):
        if find_spec(f"fastntk.{name}") is None:
            print(f"fastntk.{name} is not built here: its stub stays as it is")
            continue
        target = ROOT / f"python/fastntk/{name}.pyi"
        with tempfile.TemporaryDirectory() as folder:
            command = ["pybind11_stubgen", f"fastntk.{name}", "-o", folder, "--exit-code", "--numpy-array-use-type-var"]
            subprocess.run([sys.executable, "-m", *command], check=True)
            text = (Path(folder) / f"fastntk/{name}.pyi").read_text()
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        for bare, whole in BARE.items():
            text = re.sub(rf"\b{bare}\b(?!\[)", whole, text)
        target.write_text(text)
        for order in (["format", "--quiet"], ["check", "--fix", "--quiet"], ["format", "--quiet"]):
            subprocess.run([sys.executable, "-m", "ruff", *order, str(target)], check=True)
        print(target.relative_to(ROOT))


if __name__ == "__main__":
    main()
