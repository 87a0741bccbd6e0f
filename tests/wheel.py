"""What a wheel must be: small, of a platform's tag, whole; and of this interpreter's wheels, which instruction sets.

python tests/wheel.py wheelhouse/*.whl
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LARGEST = {"fastntk": 10e6, "fastntk_cuda13": 100e6}  # bytes; PyPI takes 100 MB of a file
LOAD = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("_cpu", sys.argv[1])
module = module_from_spec(spec)
spec.loader.exec_module(module)
print(*(name for name, _ in module.isas()))
"""
ISAS = {"x86_64": ["baseline", "avx2", "avx512"], "aarch64": ["neon"], "arm64": ["neon"]}


def check(path: Path) -> str:
    """A line about a wheel; an AssertionError says what is wrong with it."""
    name, version, *_, python, abi, tag = path.stem.split("-")
    size = path.stat().st_size
    assert size <= LARGEST[name], f"{path.name}: {size / 1e6:.1f} MB, at most {LARGEST[name] / 1e6:.0f}"
    assert not tag.startswith("linux_"), f"{path.name}: auditwheel repair makes it a manylinux wheel"
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: info.file_size for info in archive.infolist()}
        modules = [f for f in files if f.startswith(f"{name}/_") and f.endswith((".so", ".pyd"))]
        if name != "fastntk":
            assert [Path(m).name.split(".")[0] for m in modules] == ["_cuda"], files
            assert {f.split("/")[0] for f in files} == {name, f"{name}-{version}.dist-info"}, sorted(files)
            return f"{path.name}: {size / 1e6:.2f} MB"
        assert [Path(m).name.split(".")[0] for m in modules] == ["_cpu"], modules
        assert {f"{name}/__init__.py", f"{name}/py.typed"} <= set(files)
        assert any(f.endswith("/LICENSE") for f in files)
        isas = "of another interpreter"
        own = f"cp{sys.version_info.major}{sys.version_info.minor}"
        machine = platform.machine().lower()
        if python == own and abi == own and machine in tag and sys.platform != "win32":
            with tempfile.TemporaryDirectory() as folder:
                module = archive.extract(modules[0], folder)
                run = subprocess.run([sys.executable, "-c", LOAD, module], capture_output=True, text=True, check=True)
            isas = run.stdout.strip()
            assert isas.split() == ISAS[machine], isas
    return f"{path.name}: {size / 1e6:.2f} MB, {modules[0]} {files[modules[0]] / 1e6:.1f} MB, {isas}"


if __name__ == "__main__":
    wheels = [Path(name) for name in sys.argv[1:]]
    assert wheels, "no wheel was named"
    for wheel in wheels:
        print(check(wheel))
