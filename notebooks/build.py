"""The notebooks are written as text, `text/NN_name.py` (jupytext's percent format), and built and executed from it.

    python notebooks/build.py 01 05          build and execute these
    python notebooks/build.py --all          all of them
    python notebooks/build.py --words 01     only what is said between the cells: code and outputs stay
    python notebooks/build.py --adopt 01     the other way: after editing 01 in JupyterLab, write its text
    python notebooks/build.py --site DIR     the executed notebooks as HTML pages that open from disk, without a connection

A code cell that ends in a figure gives its alternative text in the cell's head: `# %% alt="..."`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from pages import write_site

HERE = Path(__file__).resolve().parent
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
}
TIMEOUT = 600  # seconds a cell


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


def take_words(text: Path) -> None:
    """Write a notebook whose text has other words and the same code, with the outputs that it has."""
    notebook, built = from_text(text), nbformat.read(notebook_of(text), as_version=4)
    code, known = ([c for c in one.cells if c.cell_type == "code"] for one in (notebook, built))
    if [cell.source for cell in code] != [cell.source for cell in known]:
        sys.exit(
            f"{text.name} has other code than {notebook_of(text).name}: build it, without --words"
        )
    for cell, old in zip(code, known, strict=True):
        cell.update(outputs=old.outputs, execution_count=old.execution_count, metadata=old.metadata)
    nbformat.write(notebook, notebook_of(text))


def adopt(path: Path) -> None:
    """Write the text of a notebook that was edited."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict(KERNEL)
    jupytext.write(notebook, text_of(path), fmt="py:percent")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", nargs="*", help="01 05 ...")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--words", action="store_true")
    parser.add_argument("--adopt", action="store_true")
    parser.add_argument("--site", type=Path, metavar="DIR")
    asked = parser.parse_args()
    if asked.site:
        write_site(HERE, asked.site)
    files = sorted(HERE.glob("*.ipynb") if asked.adopt else (HERE / "text").glob("*.py"))
    for path in files if asked.all else numbered(asked.numbers, files):
        if asked.adopt:
            adopt(path)
        elif asked.words:
            take_words(path)
        else:
            print(f"{notebook_of(path).name}: {build(path):.0f} s")


if __name__ == "__main__":
    main()
