"""Dialogs without a person: what was asked is written down, the answers are prepared by the test.

A dialog for which no answer was prepared and that has no answer of its own in Slicer's testing mode fails the test: it would
wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PySide6 import QtWidgets

UNANSWERED = object()
OK = QtWidgets.QMessageBox.StandardButton.Ok


@dataclass
class Question:
    """One dialog that was shown."""

    kind: str
    """``path``, ``text``, ``item``, ``message``, ``dialog`` or ``menu``."""
    text: str
    title: str = ""


@dataclass
class Book:
    """What was asked, and the answers in the order in which they are given."""

    asked: list[Question] = field(default_factory=list)
    answers: list[tuple[str, Any]] = field(default_factory=list)

    def answer(self, kind: str, value: Any) -> None:
        """Prepare the answer to the next dialog of a kind."""
        self.answers.append((kind, value))

    def take(self, kind: str, text: str, title: str, default: Any) -> Any:
        """Write a question down and answer it."""
        self.asked.append(Question(kind, text, title))
        for position, (one, value) in enumerate(self.answers):
            if one == kind:
                del self.answers[position]
                return value
        if default is UNANSWERED:
            raise AssertionError(f'a dialog of kind "{kind}" would wait for ever: {title} {text}'.strip())
        return default

    def texts(self) -> list[str]:
        """The texts of all questions."""
        return [q.text for q in self.asked]


BOOK = Book()


def ask(kind: str, text: str, title: str, default: Any = UNANSWERED) -> Any:
    """The answer to a dialog."""
    return BOOK.take(kind, text, title, default)


def clear() -> None:
    """Forget questions and answers."""
    BOOK.asked.clear()
    BOOK.answers.clear()


def message_display(
    level: int,
    text: str,
    testing_return_value: Any,
    mainWindowNeeded: bool = False,
    parent: Any = None,
    windowTitle: str | None = None,
    **options: Any,
) -> Any:
    """In place of ``slicer.util._messageDisplay``, which all displays and confirmations of ``slicer.util`` go through."""
    import logging

    import slicer

    del parent
    logging.log(level, text)
    title = windowTitle or logging.getLevelName(level).lower()
    if slicer.app.testingEnabled():
        return ask("message", text, title, testing_return_value)
    if mainWindowNeeded and slicer.util.mainWindow() is None:
        return None
    return message_box(text, windowTitle=title, **options)


def message_box(text: str, parent: Any = None, **options: Any) -> Any:
    """In place of ``slicer.util.messageBox``: Ok, unless there is a choice; then the test has to have prepared an answer."""
    import slicer

    del parent
    only_ok = int(options.get("standardButtons", OK).value) == OK.value or slicer.app.testingEnabled()
    return ask("message", text, str(options.get("windowTitle", "")), OK if only_ok else UNANSWERED)


def delay_display(message: str, autoCloseMsec: int = 1000, parent: Any = None, **_options: Any) -> None:
    """In place of ``slicer.util.delayDisplay``: written down, with no delay."""
    del autoCloseMsec, parent
    ask("message", message, "", None)
    QtWidgets.QApplication.processEvents()


def patch_qt() -> None:
    """Answer Qt's own modal dialogs from the book."""
    files: Any = QtWidgets.QFileDialog
    for name in ("getOpenFileName", "getSaveFileName", "getExistingDirectory", "getOpenFileNames"):
        setattr(files, name, staticmethod(_file_question(name)))
    boxes: Any = QtWidgets.QMessageBox
    for name in ("question", "information", "warning", "critical"):
        setattr(boxes, name, staticmethod(lambda _parent, title, text, *_rest: ask("message", text, title)))
    inputs: Any = QtWidgets.QInputDialog
    inputs.getText = staticmethod(lambda _parent, title, label, *_rest: ask("text", label, title))
    inputs.getItem = staticmethod(lambda _parent, title, label, *_rest: ask("item", label, title))
    for kind, name in ((QtWidgets.QDialog, "dialog"), (QtWidgets.QMessageBox, "dialog"), (QtWidgets.QMenu, "menu")):
        for method in ("exec", "exec_"):
            setattr(kind, method, _modal(name))


def _file_question(name: str) -> Callable[..., Any]:
    def asked(_parent: Any = None, title: str = "", *_rest: Any) -> Any:
        return ask("path", str(title), name)

    return asked


def _modal(name: str) -> Callable[..., Any]:
    def asked(self: Any, *_arguments: Any) -> Any:
        text = QtWidgets.QMessageBox.text(self) if QtWidgets.QMessageBox in type(self).__mro__ else ""
        answer = ask(name, text, QtWidgets.QWidget.windowTitle(self))
        return answer(self) if callable(answer) else answer

    return asked
