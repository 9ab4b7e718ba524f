"""Bindings between a parameter and a widget. As in Slicer the widget has to be of the exact type."""

from __future__ import annotations

import enum
import math
import pathlib
import typing
from collections.abc import Callable
from typing import Any

from PySide6 import QtWidgets

from host import ctk_choices, ctk_containers, ctk_values, mrml_widgets, node_combo_box
from host.parameter_node.storage import node_types
from host.parameter_node.validators import Decimals, SingleStep, bounds, choices

WHOLE = 2**31 - 1


class Connector:
    """Reads and writes a widget and tells its changes."""

    def __init__(self, widget: Any, signal: str, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self._signal = getattr(widget, signal) if signal else None
        self._callback: Callable[[], None] | None = None
        self.read, self.write = read, write

    def on_changed(self, callback: Callable[[], None] | None) -> None:
        """Call back after each change by the user; None ends that."""
        if self._signal is None:
            return
        if self._callback is not None:
            self._signal.disconnect(self._changed)
        self._callback = callback
        if callback is not None:
            self._signal.connect(self._changed)

    def _changed(self, *_arguments: Any) -> None:
        if self._callback is not None:
            self._callback()


def create(widget: Any, datatype: Any) -> Connector:
    """The binding of a widget to a type.

    :raises RuntimeError: Slicer has none for the two.
    """
    kind, notes = datatype, []
    if typing.get_origin(datatype) is typing.Annotated:
        kind, *notes = typing.get_args(datatype)
    for widgets, maker in MAKERS:
        if type(widget) in widgets:
            made = maker(widget, kind, notes)
            if made is not None:
                return made
    raise RuntimeError(f"Unable to create gui connector from widget type {widget.className()} to type {datatype}")


def of_property(widget: Any, name: str, signal: str, convert: Callable[[Any], Any] = lambda value: value) -> Connector:
    """A binding to one property."""
    return Connector(widget, signal, lambda: convert(getattr(widget, name)), lambda value: setattr(widget, name, value))


def check_box(widget: Any, kind: Any, _notes: list[Any]) -> Connector | None:
    """A check box."""
    return of_property(widget, "checked", "stateChanged") if kind is bool else None


def push_button(widget: Any, kind: Any, _notes: list[Any]) -> Connector | None:
    """A button that is made checkable."""
    if kind is not bool:
        return None
    widget.checkable = True
    return of_property(widget, "checked", "toggled")


def whole_number(widget: Any, kind: Any, notes: list[Any]) -> Connector | None:
    """A slider or spin box of Qt."""
    if kind is not int:
        return None
    low, high = bounds(notes)
    if type(widget) is QtWidgets.QSlider and math.inf in (-low, high):
        raise RuntimeError("Cannot have a connection to QSlider with unbounded range")
    widget.setRange(int(max(low, -WHOLE - 1)), int(min(high, WHOLE)))
    return of_property(widget, "value", "valueChanged")


def real_number(widget: Any, kind: Any, notes: list[Any]) -> Connector | None:
    """A slider or spin box with decimals."""
    if kind not in (float, int):
        return None
    low, high = bounds(notes)
    unlimited = math.inf in (-low, high)
    if unlimited and type(widget) in (ctk_values.ctkSliderWidget, mrml_widgets.qMRMLSliderWidget):
        raise RuntimeError(f"Cannot have a connection to {widget.className()} with unbounded range")
    decimals = [n.value for n in notes if type(n) is Decimals]
    steps = [n.value for n in notes if type(n) is SingleStep]
    if kind is int:
        widget.decimals = 0
    elif decimals:
        widget.decimals = decimals[0]
    widget.minimum = max(low, -float(WHOLE))
    widget.maximum = min(high, float(WHOLE))
    if steps:
        widget.singleStep = steps[0]
    return of_property(widget, "value", "valueChanged", kind)


def combo_box(widget: Any, kind: Any, notes: list[Any]) -> Connector | None:
    """A combo box; its items come from the type."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        values: list[Any] | None = list(kind)
        labels = [str(v.label() if hasattr(v, "label") else v.name) for v in values or ()]
    else:
        values = choices(notes) if kind in (int, float, str, bool) else None
        labels = [str(v) for v in values or ()]
    if values is None:
        return None
    held = values
    widget.clear()
    for label in labels:
        widget.addItem(label)
    return Connector(
        widget,
        "currentIndexChanged",
        lambda: held[widget.currentIndex] if 0 <= widget.currentIndex < len(held) else held[0],
        lambda value: setattr(widget, "currentIndex", held.index(value)),
    )


def line(widget: Any, kind: Any, _notes: list[Any]) -> Connector | None:
    """A line of text."""
    return of_property(widget, "text", "textChanged") if kind is str else None


def label(widget: Any, kind: Any, _notes: list[Any]) -> Connector | None:
    """A text that the user can not change."""
    return of_property(widget, "text", "") if kind is str else None


def text(widget: Any, kind: Any, _notes: list[Any]) -> Connector | None:
    """Several lines of text."""
    if kind is not str:
        return None

    def write(value: str) -> None:
        if widget.toPlainText() != value:
            widget.setPlainText(value)

    return Connector(widget, "textChanged", widget.toPlainText, write)


def path(widget: Any, kind: Any, _notes: list[Any]) -> Connector | None:
    """A path or a folder."""
    if not (isinstance(kind, type) and issubclass(kind, pathlib.PurePath)):
        return None
    name = "currentPath" if type(widget) is ctk_choices.ctkPathLineEdit else "directory"
    signal = "currentPathChanged" if name == "currentPath" else "directoryChanged"
    return Connector(widget, signal, lambda: kind(getattr(widget, name)), lambda value: setattr(widget, name, str(value)))


def node(widget: Any, kind: Any, _notes: list[Any]) -> Connector | None:
    """A node of the scene; the widget shows the parameter's classes only."""
    kinds = node_types(kind)
    if kinds is None:
        return None
    widget.nodeTypes = [k.__name__ for k in kinds]
    return Connector(widget, "currentNodeChanged", widget.currentNode, widget.setCurrentNode)


MAKERS: list[tuple[tuple[type, ...], Callable[[Any, Any, list[Any]], Connector | None]]] = [
    ((QtWidgets.QCheckBox, ctk_containers.ctkCheckBox), check_box),
    ((QtWidgets.QPushButton, ctk_containers.ctkCheckablePushButton), push_button),
    ((QtWidgets.QSlider, QtWidgets.QSpinBox), whole_number),
    (
        (QtWidgets.QDoubleSpinBox, ctk_values.ctkSliderWidget, mrml_widgets.qMRMLSliderWidget, ctk_values.ctkDoubleSpinBox),
        real_number,
    ),
    ((QtWidgets.QComboBox, ctk_choices.ctkComboBox), combo_box),
    ((QtWidgets.QLineEdit,), line),
    ((QtWidgets.QLabel,), label),
    ((QtWidgets.QTextEdit,), text),
    ((ctk_choices.ctkPathLineEdit, ctk_choices.ctkDirectoryButton), path),
    ((node_combo_box.qMRMLNodeComboBox,), node),
]
