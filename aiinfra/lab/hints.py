"""hint(): help in three steps, by a call or by a button; the same in pages and in the puzzles' sheets.

    hint("01.shards")     direction ──► idea ──► nearly code        each call one step further
    check(…)              a verdict that is no pass has three buttons under it, where widgets are installed

`Help` knows no page and no sheet: each hands it its own hints, and says where the answers stand.
"""

from dataclasses import dataclass
from typing import Any

from IPython.display import display

from aiinfra.lab import exercise, store
from aiinfra.lab.markup import Rich

_LEVELS = ("direction", "idea", "nearly the code")


@dataclass(frozen=True, repr=False)
class Hint(Rich):
    """One hint: `level` of 3, its text, and a small line under it."""

    name: str
    level: int
    text: str
    foot: str = ""
    tone = "note"

    @property
    def head(self) -> str:
        """The first line."""
        return f"Hint {self.level} of 3"

    @property
    def body(self) -> str:
        """What stands under it."""
        return self.text


@dataclass(frozen=True)
class Help:
    """The three hints for `name`; `answers` is the folder where a reader who gives up finds it."""

    name: str
    hints: tuple[str, str, str]
    answers: str

    def give(self, level: int | None = None) -> Hint:
        """The next hint, or that of `level` 1, 2 or 3; after the third, the third again. What was seen is
        kept. Raises ValueError for another level."""
        seen = int(store.read("hints", self.name).get("seen", 0))
        if level is None:
            level = min(seen + 1, 3)
        if level not in (1, 2, 3):
            raise ValueError(f"level={level!r}: there are hints 1, 2 and 3.")
        store.write("hints", self.name, {"seen": max(seen, level)})
        more = f'`hint("{self.name}")` again says more.'
        if level == 3:
            more = f"That was the last one. A full answer is in {self.answers}."
        return Hint(name=self.name, level=level, text=self.hints[level - 1], foot=more)

    @property
    def sentence(self) -> str:
        """What a verdict says about them, for where no button can be pressed."""
        return f'`hint("{self.name}")` helps.'

    def offer(self) -> None:
        """Show three buttons; the hint of the last one pressed stands below them. Without widgets, nothing.
        """
        buttons = _buttons(self.name)
        if not buttons:
            return
        place = display({"text/plain": ""}, raw=True, display_id=True)

        def pressed(button: Any) -> None:
            place.update(self.give(1 + buttons.index(button)).bundle(), raw=True)

        for button in buttons:
            button.on_click(pressed)


def _buttons(name: str) -> list[Any]:
    """One for each level, shown in a row; none where widgets are not installed."""
    try:
        import ipywidgets as widgets
    except ImportError:
        return []
    layout = widgets.Layout(width="auto")
    buttons = []
    for number, level in enumerate(_LEVELS, 1):
        words = {"description": f"Hint {number}: {level}", "tooltip": f"hint {number} of 3 for {name}"}
        buttons.append(widgets.Button(**words, layout=layout))
    row = widgets.HBox(buttons, layout=widgets.Layout(margin="0 0 0 16px"))
    display({**row._repr_mimebundle_(), "text/plain": ""}, raw=True)
    return buttons


def help_for(name: str) -> Help:
    """The hints for an exercise of a page. Raises ValueError for a name that does not exist."""
    return Help(name=name, hints=exercise.find(name).hints, answers="notebooks/solutions/")


def hint(name: str, level: int | None = None) -> Hint:
    """The next hint for an exercise, or that of `level` 1, 2 or 3. After the third, the third again.

    Raises ValueError for a name or a level that does not exist.
    """
    return help_for(name).give(level)
