"""What is shown while a run goes on: by tqdm, in a terminal, in a notebook, and where nobody looks."""

import io
import sys
import types

import pytest
from conftest import needed

import dtta
from dtta._run import _Bar

CHANGES = {"data.stream.samples": 2, "method.steps": 1, "method.draws": 2}


class Stderr(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def shown(monkeypatch, terminal=False):
    """What a bar writes to stderr, which is a terminal or not."""
    stderr = Stderr(terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    bar = _Bar()
    for done in (0, 1, 3):
        bar(done, 3, "fog")
    bar.close()
    return stderr.getvalue()


@pytest.fixture
def no_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)


def test_a_terminal_without_tqdm_has_a_line_that_is_written_over(no_tqdm, monkeypatch):
    assert shown(monkeypatch, terminal=True) == "\r\x1b[Kfog 0/3\r\x1b[Kfog 1/3\r\x1b[Kfog 3/3\n"


def test_a_file_has_nothing(no_tqdm, monkeypatch):
    assert shown(monkeypatch) == ""


@pytest.mark.parametrize("kernel", [True, False])
def test_a_notebook_without_tqdm_has_a_line_in_its_cell(kernel, no_tqdm, monkeypatch):
    seen = []

    class Handle:
        def update(self, data, raw):
            assert raw
            seen.append(data["text/plain"])

    def display(data, raw, display_id):
        assert raw and display_id
        seen.append(data["text/plain"])
        return Handle()

    shell = types.SimpleNamespace(kernel=object()) if kernel else types.SimpleNamespace()
    ipython, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython, module.display = lambda: shell, display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    assert shown(monkeypatch) == ""
    assert seen == (["fog 0/3", "fog 1/3", "fog 3/3"] if kernel else [])


def test_tqdm_shows_how_far_it_is(monkeypatch):
    class Tqdm:
        def __init__(self, **options):
            self.options, self.n, self.closed, self.words = options, 0, False, []
            bars.append(self)

        def update(self, count):
            self.n += count

        def set_description_str(self, text, refresh):
            self.words.append(text)

        def close(self):
            self.closed = True

    bars, module = [], types.ModuleType("tqdm.auto")
    module.tqdm = Tqdm
    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    assert shown(monkeypatch, terminal=True) == ""
    (bar,) = bars
    assert bar.options["total"] == bar.n == 3 and bar.closed and bar.words == ["fog"] * 3


def test_the_real_tqdm_takes_what_it_is_told(monkeypatch):
    needed("tqdm")
    text = shown(monkeypatch, terminal=True)
    assert "fog" in text and "3/3" in text and "samples" in text
    assert shown(monkeypatch) == ""


def test_a_run_shows_progress_to_its_end_and_none_where_none_is_wanted(examples, tmp_path, no_tqdm, monkeypatch):
    stderr = Stderr(terminal=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    path = examples / "fashion/single-sample.json"
    dtta.run(path, CHANGES, out=tmp_path / "a")
    text = stderr.getvalue()
    assert "\x1b[K 0/30" in text and text.endswith(" 30/30\n")
    dtta.run(path, CHANGES, out=tmp_path / "b", progress=False)
    assert stderr.getvalue() == text
    # Also where it fails.
    with pytest.raises(dtta.ExperimentError):
        dtta.run(path, CHANGES, out=tmp_path / "b")
