"""`make site`: a page for each notebook, with its figures, and an index that leads to them."""

import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

FOLDER = Path(__file__).parents[1] / "notebooks"
sys.path.insert(0, str(FOLDER))
FORMULA = r"$$L = \frac{1}{N} \sum_k \lVert \hat v_k \rVert^2$$"


@pytest.fixture
def site(tmp_path):
    """The site of two notebooks: the first of the course, and one that links to it."""
    from pages import write_site

    first = sorted(FOLDER.glob("*.ipynb"))[0]
    shutil.copy(first, tmp_path)
    linking = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(
                f"[badge](x)\n\n# The second\n\n[the first]({first.name}#One-loss)\n\n{FORMULA}"
            )
        ]
    )
    nbformat.write(linking, tmp_path / "98_second.ipynb")
    write_site(tmp_path, tmp_path / "site")
    return tmp_path / "site", first.stem


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The site of the whole course."""
    from pages import write_site

    folder = tmp_path_factory.mktemp("site")
    write_site(FOLDER, folder)
    return folder


def page_of(folder, name):
    return BeautifulSoup((folder / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def test_each_notebook_has_a_page_and_the_index_leads_to_it(site):
    folder, first = site
    pages = {path.name for path in folder.iterdir()}
    assert pages == {"index.html", f"{first}.html", "98_second.html"}
    index = (folder / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<a href="([^"]+)">', index) == [f"{first}.html", "98_second.html"]
    assert ">98 The second</a>" in index


def figures(name):
    """The picture outputs of a notebook."""
    return [
        output
        for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def test_pages_hold_their_figures_and_link_to_pages(site):
    folder, first = site
    page = (folder / f"{first}.html").read_text(encoding="utf-8")
    pictures = [output.data["image/png"][:2000].strip() for output in figures(first)]
    assert pictures and all(picture in page for picture in pictures)
    assert f'href="{first}.html#One-loss"' in (folder / "98_second.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_pages_need_no_connection(pages):
    for path in pages.iterdir():
        page = page_of(pages, path.stem)
        assert not page.select("script[src], link[href], script[type=module], img[src^=http]")
        told = [text for text in page.find_all(string=True) if not text.find_parent(["code", "pre", "script", "style"])]
        assert not [text for text in told if "$$" in text or "\\begin{" in text], "LaTeX is left as it was"


def test_a_formula_is_drawn_by_the_browser(site):
    folder, _ = site
    (formula,) = page_of(folder, "98_second").select("math")
    assert formula["display"] == "block" and formula.find("mfrac") and "\\" not in formula.text


@pytest.mark.slow
def test_every_formula_of_the_course_is_understood(pages):
    for path in FOLDER.glob("*.ipynb"):
        formulas = page_of(pages, path.stem).select("math")
        left = [formula.text for formula in formulas if "\\" in formula.text]
        assert not left, f"{path.stem}: latex2mathml knows no {left}; say it in other LaTeX"


@pytest.mark.slow
def test_every_figure_has_its_alternative_text_on_its_page(pages):
    for path in FOLDER.glob("*.ipynb"):
        page = page_of(pages, path.stem)
        assert "No description has been provided" not in str(page)
        images = page.select("img[src^='data:image/png']")
        shown = [(image["src"].partition("base64,")[2].strip(), image["alt"]) for image in images]
        told = [(one.data["image/png"].strip(), one.metadata["image/png"]["alt"]) for one in figures(path.stem)]
        assert shown == told, path.stem
