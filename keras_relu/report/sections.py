"""Reports made of sections with tables and drawings: one self-contained HTML page for any subject."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from keras_relu.errors import UserError
from keras_relu.files import write_text
from keras_relu.report import drawing, style
from keras_relu.report.drawing import Drawing

__all__ = ["section", "slug", "table", "write_page"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>keras_relu report: {{ subject | lower }}</title>
<style>
{{ css }}
</style>
</head>
<body>
<header>
<h1>{{ subject }} report</h1>
<p class="muted">{{ names | join(", ") }}. Written {{ written }}.</p>
</header>
<main>
{% for section in sections %}
<section aria-labelledby="{{ section.slug }}">
<h2 id="{{ section.slug }}">{{ section.title }}</h2>
{% for table in section.tables %}
<div class="scroll" role="region" aria-label="{{ table.title }}" tabindex="0">
<table>
<thead><tr>{% for head in table.heads %}<th scope="col"{% if loop.first %} class="text"{% endif %}>{{ head }}</th>
{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}{% if loop.first %}<th scope="row" class="text">{{ cell }}</th>
{% else %}<td>{{ cell }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
<p class="muted">{{ table.title }}</p>
{% endfor %}
{% for item in section.drawings %}
<figure id="{{ item.slug }}">
{{ item | svg }}
<figcaption>{{ item.caption }}</figcaption>
</figure>
{% endfor %}
</section>
{% endfor %}
</main>
</body>
</html>
"""


def write_page(
    subject: str,
    names: Sequence[str],
    sections: Sequence[Mapping[str, Any]],
    output: str | os.PathLike,
    *,
    figures_dir: str | os.PathLike | None = None,
) -> Path:
    """Write the report to the HTML file `output`, and each figure as `<slug>.svg` and `<slug>.png` to `figures_dir`.

    Args:
        subject: what it is about, the first word of the title.
        names: what it was made from.
        sections: from `section`.

    Returns:
        The path of the page, which is written last.

    Raises:
        UserError: `output` is a directory or `figures_dir` a file.
        KerasReLUError: a file cannot be written.
    """
    target = Path(output)
    if target.is_dir():
        raise UserError(
            f"The report path {str(target)!r} is a directory. Give a file name such as {subject.lower()}.html."
        )
    if figures_dir is not None and Path(figures_dir).exists() and not Path(figures_dir).is_dir():
        raise UserError(f"The figures path {str(figures_dir)!r} is a file. Give a directory.")
    if figures_dir is not None:
        for part in sections:
            for item in part["drawings"]:
                drawing.save(item, Path(figures_dir))
    write_text(target, _render(subject, names, sections))
    return target


def section(title: str, tables: list[dict[str, Any]], drawings: Sequence[Drawing]) -> dict[str, Any]:
    """A part of the page with a heading of its own."""
    cleaned = [Drawing(item.slug, style.plain(item.alt), style.plain(item.caption), item.draw) for item in drawings]
    return {"title": title, "slug": slug(title), "tables": tables, "drawings": cleaned}


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """A table; the first column is text, None a dash."""
    return {"title": title, "heads": heads, "rows": [[_cell(value) for value in row] for row in rows]}


def slug(text: str) -> str:
    """`text` as a name for files and anchors."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "part"


def _cell(value: Any) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else style.plain(value)


def _render(subject: str, names: Sequence[str], sections: Sequence[Mapping[str, Any]]) -> str:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["svg"] = lambda item: Markup(drawing.inline(item))
    page_css = resources.files("keras_relu.report").joinpath("templates", "page.css").read_text(encoding="utf-8")
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {style.css_variables(dark=True)} }} }}"
    return environment.from_string(_PAGE).render(
        css=Markup(f":root {{ {style.css_variables(dark=False)} }}\n{dark}\n{page_css}"),
        subject=subject,
        names=[style.plain(name) for name in names],
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        sections=sections,
    )
