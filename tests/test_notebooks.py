"""What every notebook promises, checked without running it; nbval runs them (`make test`)."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbval import plugin as nbval

from minemu import course

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 1_500_000
EXERCISES = 2
IGNORED_OUTPUTS = 2
LONGEST_CELL = 30  # lines
BADGE = "https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/{name}"
SOLUTION = re.compile(r"<details><summary>Solution</summary>\s*```python\n(.*?)```\s*</details>", re.S)
INSTALL = re.compile(r"%pip install --quiet --editable (.*)$", re.M)
CHECK = re.compile(r'^check\("([\w.-]+)"', re.M)

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


@each
def test_text_and_notebook_say_the_same(path):
    text = FOLDER / "text" / f"{path.stem}.py"
    assert text.exists(), f"write the text: python notebooks/build.py --adopt {path.stem[:2]}"
    told = [
        (cell.cell_type, cell.source, cell.metadata.get("tags"), cell.metadata.get("alt"))
        for cell in jupytext.read(text).cells
    ]
    shown = [
        (cell.cell_type, cell.source, cell.metadata.get("tags"), cell.metadata.get("alt")) for cell in read(path).cells
    ]
    assert told == shown, f"out of step: python notebooks/build.py {path.stem[:2]}"


@each
def test_it_opens_with_badge_needs_and_install(path):
    cells = read(path).cells
    first = cells[0].source
    assert BADGE.format(name=path.name) in first
    assert re.search(r"^# \S", first, re.M)
    assert "two CPU cores" in first and "T4" in first and "memory" in first, (
        "say what it needs: time on two CPU cores and on a T4, memory"
    )
    first_code, *rest = (cell.source for cell in code(path))
    installs, others = INSTALL.findall(first_code), [source for source in rest if "pip install" in source]
    same, wanted = (INSTALL.sub("", source) for source in (cells[1].source, code(NOTEBOOKS[0])[0].source))
    assert same == wanted, "the install cell is the same everywhere, but for the extras"
    assert len(installs) == 1 and not others, "install in one cell, on Colab only"
    assert installs[0] == "." or f"pip install -e {installs[0]}" in first, "say which extras it needs"


@each
def test_it_asks_before_it_shows_and_warns(path):
    prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert "**Predict" in prose, "ask for a guess before a result is shown"
    assert "## What could go wrong" in prose
    assert "> |" not in prose, "a table in a quotation is no table on the pages of `make site`"
    exercises = re.findall(r"^#+ (?:Your turn|Exercise)[ \d]*: .*$", prose, re.M)
    assert len(exercises) >= EXERCISES and all(re.search(r"\(\d+ minutes?\)$", line) for line in exercises), exercises


@each
def test_it_is_validated_strictly(path):
    cells = code(path)
    told = [option for cell in cells for option in leniency(cell)]
    assert set(told) <= {"check"}, "each cell runs, and none may fail"
    assert len(told) <= IGNORED_OUTPUTS
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert all(cell.execution_count for cell in cells), "commit it executed"
    assert path.stat().st_size < MOST_BYTES
    assert max(len(cell.source.splitlines()) for cell in cells) <= LONGEST_CELL, "one idea a cell"


def leniency(cell):
    """What nbval is told to overlook in a cell, by its comments or its tags: the output ("check"), an error, the cell itself."""
    return [
        option for option, _ in (*nbval.find_comment_markers(cell.source), *nbval.find_metadata_tags(cell.metadata))
    ]


@pytest.mark.parametrize(
    ("source", "tags", "overlooked"),
    [
        ("# NBVAL_IGNORE_OUTPUT\n1", [], ["check"]),
        ("1", ["nbval-ignore-output"], ["check"]),
        ("1", ["nbval-skip"], ["skip"]),
        ("# NBVAL_SKIP", [], ["skip"]),
        ("# NBVAL_RAISES_EXCEPTION", [], ["check_exception"]),
        ("1", ["raises-exception"], ["check_exception"]),
        ("1", ["nbval-raises-exception"], ["check_exception"]),
        ("1", ["same-as:minemu.sequence.block_mask"], []),
    ],
)
def test_what_is_overlooked_is_noticed(source, tags, overlooked):
    assert leniency(nbformat.v4.new_code_cell(source, metadata={"tags": tags})) == overlooked


@each
def test_every_figure_has_alternative_text(path):
    for cell in code(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(output.metadata.get("image/png", {}).get("alt", "")) > 20, cell.source[:60]
        if "alt" in cell.metadata:  # else a cell whose last line is no figure would promise one
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source[:60]


@each
def test_every_exercise_can_be_solved(path, capsys):
    number = path.stem[:2]
    notebook = read(path)
    asked = CHECK.findall("\n".join(cell.source for cell in code(path)))
    solutions = [
        text for cell in notebook.cells if cell.cell_type == "markdown" for text in SOLUTION.findall(cell.source)
    ]
    assert len(asked) >= EXERCISES and len(solutions) == len(asked), "each exercise has one folded solution"
    for name, solution in zip(asked, solutions, strict=True):
        assert name.startswith(f"{number}.")
        course.check(name, None)
        assert capsys.readouterr().out.startswith("not done yet:")
        space = {}
        exec(solution, space)  # a solution imports what it needs and calls its answer `answer`
        course.check(name, space["answer"])
        assert capsys.readouterr().out.startswith("right:"), f"the solution of {name} is not one"


@each
def test_code_said_to_be_the_packages_is(path):
    """A cell with the tag "same-as:minemu.sequence.block_mask" holds that very definition, but for docstring and annotations.

    The constants that it reads are the module's too, where the notebook writes them down.
    """
    written = [node for cell in code(path) for node in ast.parse(plain(cell.source)).body]
    for cell in code(path):
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("same-as:"):
                module, _, name = tag.removeprefix("same-as:").rpartition(".")
                if module.rpartition(".")[2][:1].isupper():  # a method
                    module, _, owner = module.rpartition(".")
                    original = getattr(getattr(importlib.import_module(module), owner), name)
                else:
                    original = getattr(importlib.import_module(module), name)
                mine = next(node for node in ast.parse(cell.source).body if getattr(node, "name", None) == name)
                theirs = ast.parse(textwrap.dedent(inspect.getsource(original))).body[0]
                assert bare(mine) == bare(theirs), f"{tag} has drifted from the package"
                assert drifted(mine, written, inspect.getmodule(original)) == [], (
                    f"{tag} reads what the package does not"
                )


def plain(source):
    """A cell's code, with nothing in place of what only IPython understands."""
    return re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.M)


def constants(nodes):
    """(name, value) of each assignment to a single name, in order; the value as text."""
    for node in nodes:
        for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
            if isinstance(target, ast.Name) and getattr(node, "value", None) is not None:
                yield target.id, ast.dump(node.value)


def drifted(definition, written, module):
    """Names of constants that the definition reads and the notebook sets, but not to what the module sets them to."""
    read = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)}
    theirs = dict(constants(ast.parse(inspect.getsource(module)).body))
    return [name for name, value in constants(written) if name in read & theirs.keys() and value != theirs[name]]


@pytest.mark.parametrize(("articles", "names"), [('("a", "an", "the")', []), ('("a", "an")', ["ARTICLES"])])
def test_a_constant_that_has_drifted_is_noticed(articles, names):
    from minemu.evaluation import abilities

    written = ast.parse(f"ARTICLES = {articles}\nTEXT_SHOTS = 7\n" + inspect.getsource(abilities.clean)).body
    assert drifted(written[-1], written, abilities) == names  # TEXT_SHOTS is not read by it


def bare(node):
    """A definition without docstrings and annotations, as text."""
    for inner in ast.walk(node):
        if isinstance(inner, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(inner) is not None:
            inner.body = inner.body[1:]
        if isinstance(inner, ast.FunctionDef):
            inner.returns = None
            arguments = inner.args
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                argument.annotation = None
    return ast.dump(node)


@each
def test_links_lead_somewhere(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https?://|#|attachment:)([^)\s]+)\)", cell.source):
                assert (FOLDER / target.partition("#")[0]).exists(), target


def test_the_exercises_that_the_table_of_contents_names_exist():
    named = re.findall(r"`(\d\d\.[\w-]+)`", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert named
    for name in named:
        course.find(name)  # or an error that says which there are


def test_the_table_of_contents_is_complete():
    listed = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert listed == [path.name for path in NOTEBOOKS]


def test_the_table_of_contents_tells_the_time_that_the_notebook_tells():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| \d\d \| \[.*\]\((\d\d_\w+\.ipynb)\) \|.*\| ([^|]+) \|$", readme, re.M)
    assert len(told) == len(NOTEBOOKS)
    for name, time in told:
        assert f"about {time} on two CPU cores" in read(FOLDER / name).cells[0].source, f"{name}: {time}?"
