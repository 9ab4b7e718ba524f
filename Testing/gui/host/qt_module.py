"""The module ``qt``: PySide6's classes under the names that PythonQt has."""

from __future__ import annotations

import types
from typing import Any

from PySide6 import QtCore

from host import qt_types
from host.facts import Facts
from host.refusals import HostLacksError, RefusedNameError
from host.ui_loader import HostUiLoader


class QtModule(types.ModuleType):
    """``qt``, which refuses names that PythonQt does not have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        facts = qt_types.current_facts()
        if facts.is_qt_class(name) or name in facts.qt_functions():
            raise HostLacksError(f"qt.{name} is in Slicer, but not in the host (PySide6 is Qt 6)")
        raise RefusedNameError(f"qt has no attribute named '{name}' in Slicer")


def make_qt(facts: Facts) -> types.ModuleType:
    """The module, with PySide6's types changed."""
    qt_types.patch(facts)
    module = QtModule("qt")
    for name in facts.qt_classes():
        for source in qt_types.PYSIDE_MODULES:
            if hasattr(source, name):
                setattr(module, name, getattr(source, name))
                break
    for name in ("Signal", "Slot", "Property"):
        setattr(module, name, getattr(QtCore, name))
    for name in facts.qt_functions():
        if hasattr(QtCore, name):
            setattr(module, name, getattr(QtCore, name))
    HostUiLoader._h_standin, HostUiLoader._h_table = True, "QUiLoader"
    module.QUiLoader = HostUiLoader  # type: ignore[attr-defined]
    return module
