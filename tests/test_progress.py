"""Progress: only the outermost loop is shown, and only inside `show_progress`."""

import pytest

from realnvp import progress
from realnvp.progress import set_status, show_progress, track, track_slices


@pytest.fixture
def each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    monkeypatch.setattr(progress, "LONGEST_PAUSE", 0.0)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_slices_cover_the_count() -> None:
    assert list(track_slices(5, 2, "rows")) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(track_slices(0, 2, "rows")) == []


def test_nothing_is_shown_outside(each_line: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "items")) == [0, 1, 2]
    with show_progress(enabled=False):
        assert list(track(range(3), "items")) == [0, 1, 2]
    assert lines(capsys) == []


def test_only_the_outermost_loop_is_shown(
    each_line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress():
        for _ in track(range(2), "outer"):
            assert len(list(track_slices(10, 5, "inner"))) == 2
        list(track_slices(10, 5, "after"))
    shown = [line.split("  ")[0] for line in lines(capsys)]
    assert shown == ["outer 1/2", "outer 2/2", "after 5/10", "after 10/10"]


def test_a_loop_that_ends_early_frees_the_display(
    each_line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress():
        for _ in track(iter("abc"), "letters"):
            break
        for _ in track(range(4, 6), "steps", total=6, start=4):
            set_status("3.812 bits/dim")
    shown = [line.split("  ")[:2] for line in lines(capsys)]
    assert shown == [["steps 5/6", "3.812 bits/dim"], ["steps 6/6", "3.812 bits/dim"]]
