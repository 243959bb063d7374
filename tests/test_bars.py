"""Progress in a log: whole lines, few of them."""

import io
import sys

from src.data import bars


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_whole_lines(capsys, monkeypatch):
    monkeypatch.setattr(bars, "MINUTE", 0.0)
    assert list(bars.bar(range(3), "reading", unit="file")) == [0, 1, 2]
    told = capsys.readouterr().err
    lines = told.splitlines()
    assert lines[-1].startswith("reading: 3 of 3 file") and 2 <= len(lines) <= 5
    assert "\r" not in told


def test_what_is_done_within_a_minute_is_one_line(capsys):
    with bars.bar(total=100, desc="reading") as shown:
        for _ in range(100):
            shown.update()
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "100 of 100" in told


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(bars.bar(range(3), "reading"))
    told = sys.stderr.getvalue()
    assert "\r" in told and "100%" in told
