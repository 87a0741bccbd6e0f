"""README.md, docs/ and CONTRIBUTING: what they name exists, links lead somewhere, what they show is what happens."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import fastntk
import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import select
from on_host import cuda_on_host
from test_house import CSRC_FLOORS, FLOORS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(fastntk.__file__).resolve().parent
PAGES = [ROOT / "README.md", ROOT / "bench/README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [page for page in [ROOT / ".github/CONTRIBUTING.md"] if page.exists()]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

# Files are named from the root on, from beside the page, or from a root of the sources.
ENDINGS = ("py", "md", "h", "cpp", "cu", "json", "sh", "toml", "npz", "txt", "yml")
YOURS = {"fastntk-demo.png", "file.npz", "net.py", "solve.npz", "old.json", "new.json", "try.json"}  # a user's own


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(text: str) -> list[str]:
    """Words of inline code and of code blocks."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [word for part in (*blocks, *re.findall(r"`([^`\n]+)`", rest)) for word in part.split()]


def paths(text: str) -> set[str]:
    """What looks like a file or a folder of this repository, patterns included."""
    found = set()
    for word in code(text):
        word = word.strip("`'\"(),:;")
        ended = re.fullmatch(rf"[\w./*{{}}-]+\.({'|'.join(ENDINGS)})", word)
        folder = re.fullmatch(r"\.?(?:python|csrc|tests|bench|docs|examples|\.ci|\.github)(?:/[\w.*-]+)*/?", word)
        if (ended or (folder and "/" in word)) and word not in YOURS:
            found.add(word)
    return found


def exists(path: str, page: Path) -> bool:
    if path.startswith(("bench/results/", "results/")) and not (ROOT / "bench/results").is_dir():
        return True  # results are not part of an sdist
    bases = (ROOT, page.parent, PACKAGE, ROOT / "csrc", ROOT / "bench/results")
    path = path.removeprefix("results/") if page.parent.name == "bench" else path.rstrip("/")
    name = Path(path).name  # a pattern reaches into folders, as git's do
    return any(next((base / path).parent.rglob(name) if "*" in name else base.glob(path), None) for base in bases)


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name):
    missing = sorted(path for path in paths(text_of(name)) if not exists(path, ROOT / name))
    assert missing == []


def test_the_check_of_files_sees_what_is_missing():
    text = "`tests/tolerances.py`, `csrc/nowhere.cpp --flag`, `math/duals.h`, `tests/test_zz*.py`\n"
    text += "```\npython bench/gone.py\n```\n"
    assert paths(text) == {
        "tests/tolerances.py", "csrc/nowhere.cpp", "math/duals.h", "tests/test_zz*.py", "bench/gone.py",
    }  # fmt: skip
    assert not exists("csrc/nowhere.cpp", ROOT / "README.md")
    assert not exists("tests/test_zz*.py", ROOT / "README.md")


LIBRARIES = ("botorch", "gpytorch", "jax", "torch")  # modules of the package that are named after what they need


def resolve(dotted: str) -> object:
    """A module or an attribute by its dotted name."""
    found: object = fastntk
    for k, part in enumerate(dotted.split(".")[1:], start=1):
        if not hasattr(found, part):
            importlib.import_module(".".join(dotted.split(".")[: k + 1]))
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_package_exist(name):
    wanted = {n for word in code(text_of(name)) for n in re.findall(r"\bfastntk(?:\.[A-Za-z]\w*)+", word)}
    for dotted in sorted(wanted):
        _, module, *rest = dotted.split(".")
        if module in LIBRARIES and find_spec(module) is None:  # then the text says what would be there
            assert rest[:1] == [] or f'"{rest[0]}"' in (PACKAGE / f"{module}.py").read_text().split("__all__")[1]
        else:
            resolve(dotted)


def anchors(text: str) -> set[str]:
    """Headings as GitHub turns them into anchors."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", NAMES)
def test_links_resolve(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(name)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        to = page if not file else (page.parent / file).resolve()
        if ".github" in to.parts and not (ROOT / ".github").is_dir():
            continue
        assert to.exists(), target
        assert not anchor or anchor in anchors(to.read_text(encoding="utf-8")), target


def test_readme_is_short_and_leads_to_every_page():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 230
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert f"](docs/{page.name})" in text


def test_the_commands_stand_as_lines_of_their_own():
    lines = text_of("README.md").splitlines()
    assert "pip install '.[demo]' && fastntk demo" in lines
    assert "pip install '.[test]' && pytest" in lines


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_python(name):
    for block in blocks(name):
        ast.parse(block)


def blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text_of(name), re.DOTALL | re.MULTILINE)


def imported(block: str) -> set[str]:
    """Modules from elsewhere that a block imports."""
    nodes = list(ast.walk(ast.parse(block)))
    names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    own = {name.split(".")[1] for name in names if re.match(r"fastntk\.(\w+)", name)}
    own |= {
        a.name for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "fastntk" for a in node.names
    }
    needed = own & set(LIBRARIES) | ({"torch"} if "finite" in own else set())
    return {name.split(".")[0] for name in names} | needed


def run_page(name: str) -> tuple[dict[str, object], set[str]]:
    """Blocks one after the other in one namespace, and what is missing for those that were left out."""
    found: dict[str, object] = {}
    missing: set[str] = set()
    if "goes on from the example of README.md" in text_of(name):
        found, _ = run_page("README.md")
    for block in blocks(name):
        lacking = {module for module in imported(block) if find_spec(module) is None}
        missing |= lacking
        # Behind a block that was left out others may use what it would have made.
        if lacking or (missing and not imported(block)):
            continue
        exec(compile(block, name, "exec"), found)
    return found, missing


@pytest.mark.parametrize("name", [name for name in NAMES if blocks(name)])
def test_every_block_runs(name, tmp_path, monkeypatch):
    """As it stands, in an empty folder, with warnings as errors."""
    if name == "docs/images.md" and select.load("cpu")[0] is None:
        pytest.skip("its images take NumPy alone minutes")
    monkeypatch.chdir(tmp_path)
    _, missing = run_page(name)
    if missing:
        pytest.skip(f"blocks with {', '.join(sorted(missing))} were left out")


def test_the_example_of_readme():
    found, _ = run_page("README.md")
    assert found["k"].ntk.shape == (1000, 1000)
    assert found["mean"].shape == (10, 1)
    assert np.isfinite(found["mean"]).all()
    assert found["outputs"].shape == (1000, 1)


def test_explain_prints_what_the_page_shows():
    if fastntk.show_config(mode="dict")["backend"] != "cpu":
        pytest.skip("the compiled engine says what it takes")
    text = text_of("docs/images.md")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for line in block.splitlines() if not line.startswith(("x =", "ntk =", "print("))]
    found: dict[str, object] = {}
    exec(compile("\n".join(lines), "docs/images.md", "exec"), found)
    assert f"```\n{found['kernel_fn'].explain((20, 32, 32, 3))}\n```" in text


def test_layers_that_are_named_are_there():
    rows = [line for line in text_of("README.md").splitlines() if line.startswith(("| dense networks", "| signals"))]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(named) > 15
    assert named <= set(stax.__all__)


def test_the_picture_has_every_floor():
    picture = re.search(r"^```\npython/fastntk .*?^```", text_of("docs/architecture.md"), re.DOTALL | re.MULTILINE)[0]
    lines = [set(line.split()) for line in picture.splitlines()]
    floors = [{room for room in rooms if room and room != "__main__"} for rooms in reversed(FLOORS)]
    at = [next(k for k, line in enumerate(lines) if rooms <= line) for rooms in floors if rooms]
    assert at == sorted(at)
    at = [next(k for k, line in enumerate(lines) if room in line) for room in reversed(CSRC_FLOORS)]
    assert at == sorted(at)


# ---------------------------------------------------------------- the walks of docs/architecture.md


def entered(call) -> tuple[set[str], int]:
    """Files of the package whose code a call runs, and how often it crosses into C++ to work."""
    files, crossings = set(), 0

    def look(frame, event, argument):
        nonlocal crossings
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            files.add(frame.f_code.co_filename[len(str(PACKAGE)) + 1 :])
        if event == "c_call":
            owner = getattr(argument, "__module__", None) or type(getattr(argument, "__self__", None)).__module__
            crossings += str(owner).startswith("fastntk._") and argument.__name__ not in ("isas",)

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files, crossings


def dense():
    _, _, kernel_fn = stax.serial(stax.Dense(512, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
    x = np.random.default_rng(0).standard_normal((8, 4))
    return lambda: kernel_fn(x, None, ("nngp", "ntk"))


def new_weight():
    x = np.random.default_rng(0).standard_normal((8, 4))
    values = iter((1.30517, 1.40519))  # lowered by no other test

    def call():
        net = stax.serial(stax.Dense(512, next(values), 0.1), stax.Relu(), stax.Dense(1))
        net.kernel_fn(x, None, ("nngp", "ntk"))

    return call


def images(pool: bool):
    conv = (stax.Conv(4, (3, 3), padding="SAME", W_std=2**0.5, b_std=0.1), stax.Relu())
    layers = (*conv, *conv, *([stax.AvgPool((2, 2), (2, 2))] if pool else []), stax.Flatten(), stax.Dense(1))
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    return stax.serial(*layers).kernel_fn, x


def pair_of_images():
    kernel_fn, x = images(pool=True)
    return lambda: kernel_fn(x[:1], x[1:], "ntk")


def walk(head: str) -> tuple[set[str], set[str], list[int]]:
    """Files of Python and of C++ that a walk of docs/architecture.md names, and the figures of its last line."""
    text = text_of("docs/architecture.md").split(f"### {head}\n")[1].split("\n#")[0]
    figures = re.search(r"^(\d+) Python files, (\d+) C\+\+ files, (\d+) crossings\.$", text, re.MULTILINE)
    files = {path for path in paths(text) if not path.startswith("tests/")}
    python = {path for path in files if path.endswith(".py")}
    return python, files - python, [int(n) for n in figures.groups()]


def hold(head: str, files: set[str], crossings: int) -> None:
    python, other, figures = walk(head)
    assert python == files, f'docs/architecture.md, "{head}", is not the walk that calls take'
    assert figures == [len(python), len(other), crossings]


needs_cpu = pytest.mark.skipif(select.load("cpu")[0] is None, reason="the walks go through the compiled module")


@needs_cpu
@pytest.mark.parametrize(
    ("head", "make"),
    [("One x1, dense, on the processor", dense), ("One pair of images, on the processor", pair_of_images)],
)
def test_walks_on_the_processor(head, make):
    call = make()
    with fastntk.options(backend="cpu"):
        call()
        hold(head, *entered(call))


@needs_cpu
@pytest.mark.skipif(select.load("cuda")[0] is None, reason="no compiled module _cuda")
def test_walk_on_a_device():
    kernel_fn, x = images(pool=False)
    with cuda_on_host() as (cupy, _):
        a, b = cupy.asarray(x[:1]), cupy.asarray(x[1:])
        kernel_fn(a, b, "ntk")
        hold("One pair of images, on a device", *entered(lambda: kernel_fn(a, b, "ntk")))


@needs_cpu
def test_walk_of_a_weight():
    first, call = dense(), new_weight()
    with fastntk.options(backend="cpu"):
        first(), call()
        known, _ = entered(first)
        files, crossings = entered(call)
    python, other, figures = walk("One W_std")
    assert files - known <= python <= files
    assert figures == [len(python), len(other), crossings]
