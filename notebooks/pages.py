"""The executed notebooks as HTML pages that open from disk and load nothing: figures are part of them, formulas are MathML."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

# JupyterLab's template leaves the alternative text of a figure out, and asks the network for MathJax and more.
TEMPLATE = """{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block data_png scoped -%}
{%- set alt = output | get_metadata("alt", "image/png") -%}
{{ super() if alt is none else super() | replace("<img ", '<img alt="' ~ (alt | escape_html) ~ '" ', 1) }}
{%- endblock -%}
"""
STYLE = "body{font:17px/1.6 sans-serif;max-width:44em;margin:3em auto;padding:0 1em}ol{list-style:none;padding:0}"


class Offline(IPythonRenderer):
    """Markdown with its LaTeX as MathML, which browsers draw by themselves, and words in place of pictures from elsewhere."""

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return text if url.startswith("http") else super().image(text, url, title)

    def block_math(self, body: str) -> str:
        return convert(body, display="block")

    def inline_math(self, body: str) -> str:
        return convert(body)


class Pages(HTMLExporter):
    """nbconvert's pages of a notebook, complete without a connection."""

    def __init__(self) -> None:
        super().__init__(raw_template=TEMPLATE)

    def markdown2html(self, source: str) -> str:
        return MarkdownWithMath(renderer=Offline(escape=False)).render(source)


def write_site(notebooks: Path, folder: Path) -> None:
    """A page for each notebook, and a list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, exporter = [], Pages()
    for path in sorted(notebooks.glob("*.ipynb")):
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
    page = (
        f"{head}<style>{STYLE}</style><h1>minemu: the notebooks</h1><ol>\n{items}\n</ol></html>\n"
    )
    (folder / "index.html").write_text(page, encoding="utf-8")
