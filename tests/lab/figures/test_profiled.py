"""The figure of a profile shows what the profile says."""

import pytest

from aiinfra.lab import style
from aiinfra.lab.figures.profiled import draw_profile
from aiinfra.perf.profile import DeviceWork, Profile


def worked(name: str, start: float, end: float, backward: bool = False) -> DeviceWork:
    return DeviceWork(name=name, start=start, end=end, own_seconds=end - start, part=f"layers.0.{name[6:]}",
                      backward=backward)


def test_bars_gaps_and_shares() -> None:
    work = (worked("aten::mm", 0.0, 0.4), worked("aten::_a_very_long_name_of_an_operation", 0.4, 0.5),
            worked("aten::mm", 0.6, 0.9, backward=True), worked("aten::cat", 0.9, 1.0))
    fig = draw_profile(Profile(seconds=1.0, work=work), "A step", most=2)
    timeline, operations, parts = fig.axes
    widths = [bar.get_width() for bar in operations.patches]
    assert widths == pytest.approx([400, 100, 100, 300, 0, 0])
    names = [label.get_text() for label in operations.get_yticklabels()]
    assert names[0] == "mm" and "1 other" in names and all(len(name) <= 27 for name in names)
    assert [text.get_text() for text in operations.texts] == [" 70 %", " 10 %", " 10 %"]
    idle, = [drawn for drawn in timeline.collections
             if style.plt.matplotlib.colors.to_hex(drawn.get_facecolor()[0]).upper() == style.PALE_WASTE]
    path, = idle.get_paths()
    assert path.get_extents().intervalx == pytest.approx([500, 600])
    assert "idle: no operation runs (10 %)" in [text.get_text() for text in fig.legends[0].get_texts()]
    assert [label.get_text() for label in parts.get_yticklabels()][0] == "layers.mm"
