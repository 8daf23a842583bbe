"""One message, three faces: HTML in JupyterLab, Markdown on a code host, plain text in a terminal.

    rich("passed", "slope `a` is right")  ->  a box with a coloured edge | **passed** … | passed · …

Messages are plain text; only `backticks` mean something (code). Everything else is escaped,
so that a learner's own text cannot become markup.
"""

import html
import re

TONES = {"good": "#009E73", "bad": "#D55E00", "calm": "#7F7F7F", "note": "#0072B2"}


def inline(text: str) -> str:
    """Plain text with `code` spans and line breaks, as safe HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text)).replace("\n", "<br>")


def box(tone: str, head: str, body: str, foot: str = "") -> str:
    """An HTML box with a coloured left edge: a head in bold, a body, and a small grey foot."""
    colour = TONES[tone]
    small = f'<div style="color:#767676;font-size:90%">{inline(foot)}</div>' if foot else ""
    return (f'<div style="border-left:4px solid {colour};padding:4px 12px;margin:2px 0;line-height:1.5">'
            f'<b style="color:{colour}">{inline(head)}</b> &nbsp;{inline(body)}{small}</div>')


class Rich:
    """Something a cell can end in. Subclasses give `tone`, `head`, `body` and `foot`, all text."""

    tone, head, body, foot = "calm", "", "", ""

    def _repr_html_(self) -> str:
        return box(self.tone, self.head, self.body, self.foot)

    def _repr_markdown_(self) -> str:
        return "\n\n".join(part for part in (f"**{self.head}** {self.body}", self.foot) if part)

    def __repr__(self) -> str:
        return "\n".join(part for part in (f"{self.head} · {self.body}", self.foot) if part)
