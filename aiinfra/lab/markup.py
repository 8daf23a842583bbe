"""One message, three faces: HTML in JupyterLab, Markdown on a code host, plain text in a terminal.

    rich("passed", "slope `a` is right")  ->  a box with a coloured edge | **passed** … | passed · …

Messages are plain text; only `backticks` mean something (code). Everything else is escaped,
so that a learner's own text cannot become markup. A tone is text in a mixture with the theme's own colour of
text: darker on white, lighter on black, at least 4.5:1 on both.
"""

import html
import re
from pathlib import Path

TONES = {"good": "#009E73", "bad": "#D55E00", "calm": "#7F7F7F", "note": "#0072B2"}
SIGNS = {"good": "✓", "bad": "✗", "calm": "○"}
_CODE = re.compile(r"`([^`]+)`")
_THEME = 45        # % of the theme's colour of text that make every tone readable
QUIET = "opacity:0.75"

# JupyterLab only: lines of prose that can be read, and in the dark theme figures turned dark with their hues
# kept. A page brings it along for a hosted JupyterLab; under `make lab` an extension has it, for saved pages
# too.
_SHEET = Path(__file__).parent / "labextension/static/looks.css"
LOOKS = f"<style>\n{_SHEET.read_text(encoding='utf-8')}</style>"


def inline(text: str) -> str:
    """Plain text with `code` spans and line breaks, as safe HTML."""
    marked = _CODE.sub(r"<code>\1</code>", html.escape(text))
    return marked.replace("\n", "<br>")


def ink(colour: str) -> str:
    """A colour for text on any theme, as a CSS value."""
    return f"color-mix(in srgb, currentColor {_THEME}%, {colour})"


def frame(tone: str, inside: str) -> str:
    """HTML in a box with a coloured left edge."""
    style = f"border-left:4px solid {TONES[tone]};padding:4px 12px;margin:2px 0;line-height:1.5"
    return f'<div style="{style}">{inside}</div>'


def box(tone: str, head: str, body: str, foot: str = "") -> str:
    """A frame with text in it: a head in bold, a body, and a small grey foot."""
    inside = f'<b style="color:{ink(TONES[tone])}">{inline(head)}</b> &nbsp;{inline(body)}'
    if foot:
        inside += f'<div style="{QUIET};font-size:90%">{inline(foot)}</div>'
    return frame(tone, inside)


class Rich:
    """Something a cell can end in. Subclasses give `tone`, `head`, `body` and `foot`, all text."""

    tone = "calm"
    head = ""
    body = ""
    foot = ""

    def bundle(self) -> dict[str, str]:
        """All three faces, by MIME type."""
        return {
            "text/plain": repr(self),
            "text/markdown": self._repr_markdown_(),
            "text/html": self._repr_html_(),
        }

    def _repr_html_(self) -> str:
        return box(self.tone, self.head, self.body, self.foot)

    def _repr_markdown_(self) -> str:
        text = f"**{self.head}** {self.body}"
        if self.foot:
            text += f"\n\n{self.foot}"
        return text

    def __repr__(self) -> str:
        text = f"{self.head} · {self.body}"
        if self.foot:
            text += f"\n{self.foot}"
        return text
