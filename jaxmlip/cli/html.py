"""One self-contained HTML page: headings, text, tables and pictures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html as markup
import io
from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

_CSS = """
body { margin: 0; background: #f3f4f6; color: #1f2937; font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 920px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.9rem; margin: 0 0 4px; } h2 { font-size: 1.2rem; margin: 0 0 8px; }
section { background: #fff; border: 1px solid #e5e7eb; border-radius: 10px; padding: 20px 24px; margin-top: 20px; }
p { margin: 6px 0 12px; } .lead { color: #4b5563; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 14px; margin-top: 20px; }
.card { background: #fff; border: 1px solid #e5e7eb; border-radius: 10px; padding: 14px 18px; }
.card b { display: block; font-size: 1.35rem; font-weight: 650; } .card span { color: #4b5563; font-size: .88rem; }
img { display: block; max-width: 100%; height: auto; margin: 8px auto 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: 5px 10px; border-bottom: 1px solid #e5e7eb; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { color: #4b5563; font-weight: 600; }
td { overflow-wrap: anywhere; }
"""


class Page:
    """A page under construction: add to it from top to bottom, then `html()`."""

    def __init__(self, title: str, lead: str):
        self.title = title
        self.parts = [f'<h1>{markup.escape(title)}</h1><p class="lead">{markup.escape(lead)}</p>']

    def cards(self, values: Mapping[str, str]) -> None:
        """The figures that matter most, large: what it is -> value with unit."""
        items = "".join(
            f'<div class="card"><b>{markup.escape(value)}</b><span>{markup.escape(name)}</span></div>'
            for name, value in values.items()
        )
        self.parts.append(f'<div class="cards">{items}</div>')

    def figure(self, title: str, text: str, figure: Figure) -> None:
        """A section with a picture; the figure is closed."""
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=160)
        plt.close(figure)
        data = base64.b64encode(stream.getvalue()).decode()
        width = round(figure.get_figwidth() * 100)
        picture = f'<img alt="{markup.escape(title)}" width="{width}" src="data:image/png;base64,{data}">'
        self._section(title, text, picture)

    def table(self, title: str, text: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A section with a table."""

        def line(tag: str, cells: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{markup.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

        body = "".join(line("td", row) for row in rows)
        self._section(title, text, f"<table>{line('th', header)}{body}</table>")

    def html(self) -> str:
        """The page."""
        title, body = markup.escape(self.title), "\n".join(self.parts)
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{_CSS}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
        )

    def _section(self, title: str, text: str, content: str) -> None:
        self.parts.append(f"<section><h2>{markup.escape(title)}</h2><p>{markup.escape(text)}</p>{content}</section>")
