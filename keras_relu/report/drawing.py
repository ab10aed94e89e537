"""One figure of a report: drawn for a wide and for a narrow page, written as inline SVG, SVG file and PNG file."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from keras_relu.files import atomic_path
from keras_relu.report import style

__all__ = ["NARROW_IN", "ROW_IN", "WIDE_IN", "Drawing", "inline", "save"]

# The widths at which text set in 9 points stays readable once the page scales the figure: desktop and phone.
WIDE_IN, NARROW_IN = 8.6, 3.7
# Height of one legend row.
ROW_IN = 0.168
PNG_DPI = 160


@dataclass(frozen=True)
class Drawing:
    """`draw(narrow)` returns a new figure; `alt` says in words what it shows, `caption` names the units."""

    slug: str
    alt: str
    caption: str
    draw: Callable[[bool], Figure]


def _rendered(drawing: Drawing, *, narrow: bool, form: str, salt: str) -> bytes:
    buffer = io.BytesIO()
    settings: Any = {**style.RC, "svg.hashsalt": salt}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A run named in a script that the font lacks still has its name in the SVG text.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = drawing.draw(narrow)
        FigureCanvasAgg(figure)
        options = {"metadata": {"Date": None, "Creator": None}} if form == "svg" else {"dpi": PNG_DPI}
        figure.savefig(buffer, format=form, **options)
    return buffer.getvalue()


def inline(drawing: Drawing) -> str:
    """Both variants as SVG elements for an HTML page; a media query of the page shows one of them."""
    return "".join(_inline_variant(drawing, narrow) for narrow in (False, True))


def _inline_variant(drawing: Drawing, narrow: bool) -> str:
    prefix = f"{drawing.slug}-{'n' if narrow else 'w'}-"
    svg = _rendered(drawing, narrow=narrow, form="svg", salt=prefix).decode("utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: _page_tag(tag[0], prefix), svg)
    kind = "narrow" if narrow else "wide"
    head = f'<svg class="figure {kind}" role="img" aria-label="{html.escape(drawing.alt)}" '
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", head, 1)


def _page_tag(tag: str, prefix: str) -> str:
    """A tag with theme colours as variables and with ids that no other figure of the page has, or clips would mix."""
    tag = re.sub(r'\bid="', f'id="{prefix}', tag)
    return style.themed(re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", tag))


def save(drawing: Drawing, directory: Path) -> list[Path]:
    """Write `<slug>.svg` and `<slug>.png` (wide variant, light colours), each atomically."""
    written = []
    for form in ("svg", "png"):
        target = directory / f"{drawing.slug}.{form}"
        with atomic_path(target) as temporary:
            temporary.write_bytes(_rendered(drawing, narrow=False, form=form, salt=drawing.slug))
        written.append(target)
    return written
