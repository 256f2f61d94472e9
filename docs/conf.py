"""How Sphinx makes the documentation: make docs."""

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from myst_nb.core import render

import realnvp

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))

project = "realnvp"
author = "the authors of realnvp"
version = release = realnvp.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"realnvp {version}"
html_show_copyright = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["style.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Docstrings are plain text with code in single backticks; scikit-learn's estimators have its style.
# Signatures have the types.
napoleon_google_docstring = False
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
toc_object_entries_show_parents = "hide"
autodoc_default_options = {"members": True, "exclude-members": "forward, training"}
python_use_unqualified_type_names = True

# The tutorials are run, in a folder of their own; again only when code has changed.
nb_execution_mode = "cache"
nb_execution_cache_path = str(
    ROOT
    / "build"
    / "tutorials"
    / hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:16]
)
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 3600  # of a cell; on an idle core none takes a minute
nb_merge_streams = True
os.environ["PATH"] = (
    str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
)  # where the command realnvp is
os.environ.setdefault("OMP_NUM_THREADS", "1")  # flows this small gain nothing from more
os.environ["COLUMNS"] = "100"

doctest_global_setup = """
import torch
import realnvp
torch.manual_seed(0)
"""


def listed(lines: list[str]) -> list[str]:
    """Lines "name: words", which may go on indented, as items of a list."""
    out: list[str] = []
    for line in lines:
        inside = bool(out) and out[-1].startswith("- ")
        if out and re.match(r"[A-Za-z_]\w*(, \w+)*: ", line):
            out += ["- " + line] if inside else ["", "- " + line]
        elif inside and line.startswith(" "):
            out[-1] += " " + line.strip()
        else:
            out += ["", line] if inside else [line]
    return out


def plain_text(
    _app: Any, what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Docstrings as they are meant: *, | and @ are themselves; indented text keeps its lines."""
    if what not in ("attribute", "property"):
        lines[:] = listed(lines)
    text = "\n".join(
        line if line.startswith(" ") else re.sub(r"[*|@]", r"\\\g<0>", line) for line in lines
    )
    lines[:] = re.sub(r":\n\n?(?=  )", "::\n\n", text).split("\n")
    if what in ("attribute", "property"):
        lines.insert(
            0, "\\"
        )  # nothing, to Sphinx; but a first line "a: b" is to napoleon a type and a description


def mathml(translator: Any, node: Any) -> None:
    """Formulas as browsers draw them: no script, no network."""
    translator.body.append(tex2mathml(node.astext(), as_block="block" in type(node).__name__))
    raise SkipNode


def whole_streams(outputs: list[Any]) -> list[Any]:
    """Outputs of a cell, all that it printed as one text.

    IPython sends a hundred characters at a time; myst-nb's own function, which this one replaces,
    begins a new line for each.
    """
    whole: dict[str | int, Any] = {}
    for i, output in enumerate(outputs):
        key = output["name"] if output["output_type"] == "stream" else i
        if key in whole:
            whole[key]["text"] += output["text"]
        else:
            whole[key] = output
    return sorted(
        whole.values(), key=lambda output: output.get("name") == "stderr"
    )  # which came first is chance


def setup(app: Any) -> None:
    """Called by Sphinx."""
    assert hasattr(render, "coalesce_streams")
    render.coalesce_streams = whole_streams
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("autodoc-process-docstring", plain_text, priority=400)  # before napoleon
