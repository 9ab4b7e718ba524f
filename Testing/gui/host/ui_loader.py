"""``qt.QUiLoader`` with stand-ins as custom widgets: an unknown class, property or connection of a ``.ui`` file is refused.

Qt itself takes the base class of an unknown widget and drops what it does not know, with no error.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets

from host import qt_types
from host.refusals import HostLacksError, RefusedNameError, RefusedSignalError
from host.standin import REGISTERED

STATIC_ONLY = ("SlicerParameterName", "SlicerPackParameterName")
"""Dynamic properties that Slicer itself reads."""


def standin_class(name: str) -> type | None:
    """The stand-in for a class of CTK or Slicer."""
    for kinds in REGISTERED.values():
        if name in kinds:
            return kinds[name]
    return None


class HostUiLoader(QtUiTools.QUiLoader):
    """Loads a ``.ui`` file as Slicer does with its Designer plugins."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._h_made: list[Any] = []

    def createWidget(self, class_name: str, /, parent: Any = None, name: str = "") -> Any:
        """Called by Qt for each widget."""
        kind = standin_class(class_name)
        if kind is None:
            return QtUiTools.QUiLoader.createWidget(self, class_name, parent, name)
        with qt_types.loading_ui(False):
            widget = kind(parent) if parent is not None else kind()
        QtCore.QObject.setObjectName(widget, name)
        self._h_made.append(widget)
        return widget

    def load(self, device: Any, parent: Any = None) -> Any:
        """The top widget of a file; raises what Qt would hide."""
        text = bytes(QtCore.QFile.readAll(device).data())
        root = ElementTree.fromstring(text)
        held = check(root)
        connections = take_connections(root)
        buffer = QtCore.QBuffer()
        QtCore.QBuffer.setData(buffer, ElementTree.tostring(root))
        QtCore.QBuffer.open(buffer, QtCore.QIODevice.OpenModeFlag.ReadOnly)
        with qt_types.loading_ui():
            top = QtUiTools.QUiLoader.load(self, buffer, parent)
        if top is None:
            raise RuntimeError(f"Qt can not read the .ui file: {QtUiTools.QUiLoader.errorString(self)}")
        for name, values in held.items():
            widget = named(top, name)
            for key, value in values.items():
                setattr(widget, key, value)
        for sender, signal, receiver, slot in connections:
            named(top, sender).connect(signal, named(top, receiver), slot)
        return top


def named(top: Any, name: str) -> Any:
    """A widget or other object of the loaded file."""
    if QtCore.QObject.objectName(top) == name:
        return top
    found = QtCore.QObject.findChild(top, QtCore.QObject, name)
    if found is None:
        raise RefusedNameError(f'the .ui file connects "{name}", which it does not have')
    return found


def check(root: ElementTree.Element) -> dict[str, dict[str, Any]]:
    """Refuse what Slicer does not have; take out what only stand-ins understand: ``{object: {property: value}}``."""
    facts = qt_types.current_facts()
    custom = {c.findtext("class", ""): c.findtext("extends", "") for c in root.iter("customwidget")}
    taken: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    for widget in root.iter("widget"):
        kind, name = widget.get("class", ""), widget.get("name", "")
        if name in seen:
            raise RefusedNameError(f'two objects of the .ui file are called "{name}"; only the last can be reached')
        seen.add(name)
        check_class(kind, custom)
        for entry in list(widget.findall("property")):
            key = entry.get("name", "")
            if key in facts.own(kind):
                taken.setdefault(name, {})[key] = value_of(entry)
                widget.remove(entry)
            elif key not in facts.properties(kind) and entry.get("stdset") != "0":
                raise RefusedNameError(f'{kind} "{name}" of the .ui file has no property "{key}" in Slicer')
    for kind in custom:
        check_class(kind, custom)
    return taken


def check_class(kind: str, custom: dict[str, str]) -> None:
    """Refuse a widget class that Slicer or the host does not have, or whose ``customwidget`` entry is missing or wrong."""
    facts = qt_types.current_facts()
    if facts.is_slicer_class(kind):
        if standin_class(kind) is None:
            raise HostLacksError(f"{kind} is in Slicer, but not in the host")
        if kind not in custom:
            raise RefusedNameError(f"{kind} of the .ui file has no customwidget entry")
        if custom[kind] not in facts.chain(kind)[1:]:
            raise RefusedNameError(f"{kind} does not extend {custom[kind]}, as the .ui file says")
    elif not facts.is_qt_class(kind) or not hasattr(QtWidgets, kind):
        raise RefusedNameError(f'the .ui file uses the widget class "{kind}", which Slicer does not have')


def value_of(entry: ElementTree.Element) -> Any:
    """The value of a property."""
    value = entry[0]
    text = value.text or ""
    readers: dict[str, Any] = {
        "bool": lambda: text == "true",
        "number": lambda: int(text),
        "double": lambda: float(text),
        "string": lambda: text,
        "cstring": lambda: text,
        "stringlist": lambda: tuple(one.text or "" for one in value),
        "enum": lambda: text,
        "set": lambda: text,
    }
    if value.tag not in readers:
        raise HostLacksError(f"the host does not read <{value.tag}> of a .ui file")
    return readers[value.tag]()


def take_connections(root: ElementTree.Element) -> list[tuple[str, str, str, str]]:
    """The file's connections, which are then made through the strict ``connect``."""
    found = []
    for group in root.findall("connections"):
        for one in group.findall("connection"):
            parts = [one.findtext(tag, "") for tag in ("sender", "signal", "receiver", "slot")]
            if not all(parts):
                raise RefusedSignalError(f"an incomplete connection in the .ui file: {parts}")
            found.append((parts[0], parts[1], parts[2], parts[3]))
        root.remove(group)
    return found
