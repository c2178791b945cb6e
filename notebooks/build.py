"""The notebooks are written as text, `text/NN_name.py` (jupytext's percent format), and built and executed from it.

    python notebooks/build.py 01 05          build and execute these
    python notebooks/build.py --all          all of them
    python notebooks/build.py --adopt 01     the other way: after editing 01 in JupyterLab, write its text
    python notebooks/build.py --site DIR     the executed notebooks as HTML pages that open from disk (formulas need a connection: MathJax)

A code cell that ends in a figure gives its alternative text in the cell's head: `# %% alt="..."`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

HERE = Path(__file__).resolve().parent
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
}
TIMEOUT = 600  # seconds a cell
FIGURE_WITH_ALT = """{%- extends "lab/index.html.j2" -%}
{%- block data_png scoped -%}
{%- set alt = output | get_metadata("alt", "image/png") -%}
{{ super() if alt is none else super() | replace("<img ", '<img alt="' ~ (alt | escape_html) ~ '" ', 1) }}
{%- endblock -%}
"""  # the template of JupyterLab leaves the alternative text of a figure out


def numbered(numbers: list[str], files: list[Path]) -> list[Path]:
    """The file of each notebook whose number is asked for."""
    found = []
    for number in numbers:
        match = [path for path in files if path.stem.startswith(number)]
        if len(match) != 1:
            sys.exit(
                f"{len(match)} files begin with '{number}': {', '.join(path.name for path in files)}"
            )
        found += match
    return found


def text_of(notebook: Path) -> Path:
    return HERE / "text" / f"{notebook.stem}.py"


def notebook_of(text: Path) -> Path:
    return HERE / f"{text.stem}.ipynb"


def from_text(text: Path) -> nbformat.NotebookNode:
    """The notebook of a text, without outputs; cells are numbered, so that a rebuilt one differs only where it changed."""
    notebook = jupytext.read(text, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(KERNEL)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{'code' if cell.cell_type == 'code' else 'text'}-{number:02d}"
        cell.metadata.pop("lines_to_next_cell", None)
    return notebook


def build(text: Path) -> float:
    """Execute a notebook and write it; how many seconds that took."""
    notebook, started = from_text(text), time.time()
    os.environ["CI"] = "1"  # no progress bars
    NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}) and "alt" in cell.metadata:
                output.metadata["image/png"] = {
                    **output.metadata.get("image/png", {}),
                    "alt": cell.metadata["alt"],
                }
    notebook.metadata = nbformat.from_dict(KERNEL)  # not the version of this machine's Python
    nbformat.write(notebook, notebook_of(text))
    return time.time() - started


def adopt(path: Path) -> None:
    """Write the text of a notebook that was edited."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict(KERNEL)
    jupytext.write(notebook, text_of(path), fmt="py:percent")


def site(folder: Path) -> None:
    """Pages that open from disk, with a list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, exporter = [], HTMLExporter(raw_template=FIGURE_WITH_ALT)
    for path in sorted(HERE.glob("*.ipynb")):
        page, _ = exporter.from_filename(str(path))
        page = re.sub(
            r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', page
        )  # from page to page, not to the notebooks
        (folder / f"{path.stem}.html").write_text(page, encoding="utf-8")
        first = nbformat.read(path, as_version=4).cells[0].source
        title = next(line[2:] for line in first.splitlines() if line.startswith("# "))
        lines.append(f'<li><a href="{path.stem}.html">{path.stem[:2]} {title}</a></li>')
    items = "\n".join(lines)
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>minemu: the notebooks</title>'
    )
    style = "<style>body{font:17px/1.6 sans-serif;max-width:44em;margin:3em auto;padding:0 1em}ol{list-style:none;padding:0}</style>"
    page = f"{head}{style}<h1>minemu: the notebooks</h1><ol>\n{items}\n</ol></html>\n"
    (folder / "index.html").write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", nargs="*", help="01 05 ...")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--adopt", action="store_true")
    parser.add_argument("--site", type=Path, metavar="DIR")
    asked = parser.parse_args()
    if asked.site:
        site(asked.site)
    files = sorted(HERE.glob("*.ipynb") if asked.adopt else (HERE / "text").glob("*.py"))
    for path in files if asked.all else numbered(asked.numbers, files):
        if asked.adopt:
            adopt(path)
        else:
            print(f"{notebook_of(path).name}: {build(path):.0f} s")


if __name__ == "__main__":
    main()
