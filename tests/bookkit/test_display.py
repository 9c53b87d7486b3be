import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from bookkit import display


@pytest.mark.parametrize(("value", "static"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_the_environment_says_whether_outputs_are_for_a_page(monkeypatch, value, static):
    monkeypatch.delenv("BOOK_STATIC", raising=False)
    if value is not None:
        monkeypatch.setenv("BOOK_STATIC", value)
    assert display.is_static() is static


def test_outside_ipython_the_plain_text_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(InteractiveShell, "_instance", None)
    display.emit({"text/html": "<b>x</b>", "text/plain": "x"})
    display.emit({"text/html": "<b>x</b>"})
    assert capsys.readouterr().out == "x\n"


def test_inside_ipython_one_output_holds_the_bundle():
    had_shell = InteractiveShell.initialized()
    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            display.emit({"text/html": "<b>x</b>", "text/plain": "x"}, {"key": 1})
    finally:
        if not had_shell:
            InteractiveShell.clear_instance()
    (output,) = captured.outputs
    assert output.data == {"text/html": "<b>x</b>", "text/plain": "x"}
    assert output.metadata == {"key": 1}
