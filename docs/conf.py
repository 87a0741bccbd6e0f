"""The site: ``pip install '.[docs]' && sphinx-build -W --keep-going docs site``.

Pages are the Markdown files beside this one; those of the interface are written here, from what modules say is public,
and the gallery from ``examples/``, which are run.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
from pathlib import Path

import fastntk

HERE = Path(__file__).resolve().parent
MODULES = (
    "stax", "dual", "predict", "sklearn", "finite", "meanfield", "abc", "mogp", "lazy_feature", "catapult",
    "quadrature", "scale", "study", "plot",
)  # fmt: skip
# Files elsewhere in the repository that are pages of the site too.
BROUGHT = {"contributing": ".github/CONTRIBUTING.md", "benchmarks": "bench/README.md"}

project = "fastntk"
author = "the fastntk authors"
copyright = "the fastntk authors, Apache-2.0"
version = release = fastntk.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["README.md"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

templates_path = ["_templates"]
suppress_warnings = ["config.cache"]  # the gallery's settings hold a function

html_theme = "pydata_sphinx_theme"
html_title = "fastntk"
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2, "header_links_before_dropdown": 5}
html_sidebars = {"*": []}  # pages with nothing below them have nothing to list beside them


# ---------------------------------------------------------------- the interface


def write_interface(app, config) -> None:
    """A page for each public module, and in it a summary that Sphinx follows to a page for each name."""
    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    for name in MODULES:
        module = importlib.import_module(f"fastntk.{name}")
        title = f"fastntk.{name}"
        lines = [title, "=" * len(title), "", f".. automodule:: {title}", "", f".. currentmodule:: {title}", ""]
        lines += [".. autosummary::", "   :toctree: generated", ""]
        lines += [f"   {own}" for own in sorted(module.__all__) if not inspect.ismodule(getattr(module, own))]
        text = "\n".join(lines) + "\n"
        page = folder / f"{name}.rst"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def bring_pages(app, config) -> None:
    """Those that stand elsewhere, with links that lead from here."""
    folder = HERE / "repository"
    folder.mkdir(exist_ok=True)
    for name, path in BROUGHT.items():
        text = (HERE.parent / path).read_text(encoding="utf-8").replace("](../docs/", "](../")
        page = folder / f"{name}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def lead_to_pages(app, name, source) -> None:
    """Links from one page to another, whatever file that one is made of."""
    for page, path in BROUGHT.items():
        source[0] = source[0].replace(f"](../{path}", f"](repository/{page}.md")


def leave_others(app, what, name, member, skip, options) -> bool | None:
    """Members that a class has from another library stand in that library's documentation."""
    member = getattr(member, "fget", member)
    module = str(getattr(inspect.unwrap(member) if callable(member) else member, "__module__", None) or "fastntk")
    return None if module.partition(".")[0] == "fastntk" else True


# ---------------------------------------------------------------- the gallery


def pictures(block, variables, gallery) -> str:
    """The picture that an example has written beside itself."""
    from sphinx_gallery.scrapers import figure_rst

    found = []
    for path in sorted(Path(variables["src_file"]).parent.glob("*.png")):
        target = next(variables["image_path_iterator"])
        shutil.move(path, target)
        found.append(target)
    return figure_rst(found, gallery["src_dir"])


sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"/(?!study|bayesian)\w+\.py$",  # these take minutes
    "image_scrapers": (pictures,),
    "download_all_examples": False,
    "remove_config_comments": True,
    "min_reported_time": 600,
    "show_memory": False,
}


def setup(app) -> None:
    for write in (write_interface, bring_pages):
        app.connect("config-inited", write)  # before Sphinx looks which pages there are
    app.connect("source-read", lead_to_pages)
    app.connect("autodoc-skip-member", leave_others)
