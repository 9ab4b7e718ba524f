"""PySide6's types made to behave as PythonQt shows them: properties are attributes, unknown names are refused.

The types themselves are changed, so that objects which Qt or ``slicer.util`` makes behave in the same way. Host code that wants
Qt's own method calls it on the class: ``QtWidgets.QLabel.text(label)``.
"""

from __future__ import annotations

import contextlib
import dis
import enum
import sys
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets

from host import signals
from host.facts import Facts
from host.refusals import HostLacksError, RefusedNameError, RefusedSignalError

PYSIDE_MODULES = (QtCore, QtGui, QtWidgets, QtNetwork, QtUiTools)
LOADS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")
VIRTUAL_PROPERTIES = ("sizeHint", "minimumSizeHint", "spacing")
PRIVATE = "_h_"
"""Attributes of stand-ins that begin so are the host's own."""

_state: dict[str, Any] = {}
_names: dict[type, str] = {}
_python_classes: dict[type, tuple[type, ...]] = {}
"""Of each type and its bases, those that are written in Python."""
_getters: dict[type, Any] = {}
"""How each type looked attributes up before it was changed."""


def current_facts() -> Facts:
    """The tables in force."""
    facts: Facts = _state["facts"]
    return facts


def use_facts(facts: Facts) -> None:
    """Change the Slicer release that all types play."""
    _state["facts"] = facts


def is_pyside(kind: type) -> bool:
    """Whether a class comes from PySide6."""
    return kind.__module__.startswith(("PySide6.", "Shiboken"))


def is_standin(kind: type) -> bool:
    """Whether a class is a stand-in of the host for a class of Slicer or CTK."""
    return "_h_standin" in kind.__dict__


def table_name(kind: type) -> str:
    """The class under whose name the tables list an object's names: the nearest that they know."""
    if kind not in _names:
        facts = current_facts()
        _names[kind] = next(
            (
                c.__dict__.get("_h_table", c.__name__)
                for c in kind.__mro__
                if (is_pyside(c) and facts.is_qt_class(c.__name__)) or is_standin(c)
            ),
            "",
        )
    return _names[kind]


def python_member(kind: type, name: str) -> bool:
    """Whether a class written in Python (no class of PySide6) defines the name."""
    if kind not in _python_classes:
        _python_classes[kind] = tuple(c for c in kind.__mro__ if c is not object and not is_pyside(c))
    return any(name in c.__dict__ for c in _python_classes[kind])


def is_subclass_by_user(kind: type) -> bool:
    """Whether the class was written by the module under test; such objects may have any attribute."""
    return not is_pyside(kind) and not is_standin(kind)


class NativeMethod:
    """A method of a Qt object as PythonQt calls it: no keyword arguments, lists come back as tuples."""

    def __init__(self, owner: Any, name: str, native: Any) -> None:
        self._owner, self._name, self._native = owner, name, native

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call Qt."""
        if keywords:
            raise ValueError(
                f"{type(self._owner).__name__}.{self._name} takes no keyword arguments in Slicer: {sorted(keywords)}"
            )
        try:
            return as_python(self._native(*[as_qt(a) for a in arguments]))
        except TypeError as error:
            raise ValueError(f"{type(self._owner).__name__}.{self._name}{arguments}: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NativeMethod) and self._owner is other._owner and self._name == other._name

    def __hash__(self) -> int:
        return hash((id(self._owner), self._name))


def as_qt(value: Any) -> Any:
    """An argument as Qt takes it."""
    return str(value) if isinstance(value, PurePath) else value


def as_python(value: Any) -> Any:
    """A result as PythonQt gives it: lists are tuples."""
    return tuple(value) if isinstance(value, list) else value


def native_attribute(owner: Any, name: str) -> Any:
    """An attribute as PySide6 finds it; a few types, as QFile with its two forms of ``exists``, look in a way of their own."""
    for kind in type(owner).__mro__:
        if kind in _getters:
            return _getters[kind](owner, name)
    return object.__getattribute__(owner, name)


def get_property(owner: Any, name: str) -> Any:
    """The value of a Qt property."""
    capital = name[0].upper() + name[1:]
    for getter in (name, "is" + capital, "has" + capital):
        native = getattr(type(owner), getter, None)
        if callable(native) and not isinstance(native, type):
            return as_python(native_attribute(owner, getter)())
    return as_python(QtCore.QObject.property(owner, name))


def set_property(owner: Any, name: str, value: Any) -> None:
    """Assign a Qt property."""
    setter = getattr(type(owner), "set" + name[0].upper() + name[1:], None)
    if setter is not None:
        try:
            setter(owner, as_qt(value))
        except TypeError as error:
            raise AttributeError(f"{table_name(type(owner))}.{name} does not take {value!r}") from error
        return
    index = QtCore.QObject.metaObject(owner).indexOfProperty(name)
    if index < 0 or not QtCore.QObject.metaObject(owner).property(index).isWritable():
        raise AttributeError(f"{table_name(type(owner))}.{name} is read-only")
    QtCore.QObject.setProperty(owner, name, value)


def resolve_signature(owner: Any, signature: str) -> tuple[str, bool]:
    """A signature as connected and whether it is a stand-in's own; refused when the class has no such signal."""
    wanted = signals.normalized(signature)
    facts, kind = current_facts(), table_name(type(owner))
    name = wanted.partition("(")[0]
    if wanted in facts.signatures(kind):
        if not has_own_signal(type(owner), wanted):
            raise HostLacksError(f"{kind} of the host does not emit {wanted}")
        return wanted, True
    if python_member(type(owner), name) and is_subclass_by_user(type(owner)):
        return wanted, False
    if name in facts.signals(kind) and wanted in signals.native_signatures(owner, name):
        return wanted, False
    raise RefusedSignalError(f'{kind} has no signal "{signature}" in Slicer; connect would return False and do nothing')


def has_own_signal(kind: type, signature: str) -> bool:
    """Whether a stand-in says that it emits this signal."""
    return any(signature in c.__dict__.get("_h_signals", ()) for c in kind.__mro__)


def own_signal(kind: type, name: str) -> str | None:
    """The first overload of a stand-in's own signal."""
    for one in kind.__mro__:
        for signature in one.__dict__.get("_h_signals", ()):
            if signature.partition("(")[0] == name:
                return str(signature)
    return None


def get_attribute(self: Any, name: str) -> Any:
    """``__getattribute__`` of every Qt type."""
    if name.startswith(("__", PRIVATE)):
        return native_attribute(self, name)
    kind = type(self)
    known = table_name(kind)
    by_user = is_subclass_by_user(kind)
    if not known or (by_user and (python_member(kind, name) or name in object.__getattribute__(self, "__dict__"))):
        return native_attribute(self, name)
    facts = current_facts()
    if name.endswith("_") and name[:-1] in facts.visible(known):
        # PythonQt drops it, for names that are words of Python: exec_().
        return NativeMethod(self, name[:-1], native_attribute(self, name[:-1]))
    if name not in facts.visible(known):
        if hasattr(kind, name) and not asked_by_python(name):
            return Unlisted(known, name)
        return get_unlisted(self, name, known)
    is_object = "QObject" in facts.chain(known)
    if is_object and name in ("connect", "disconnect"):
        return signals.BoundConnect(self, lambda signature: resolve_signature(self, signature), name == "disconnect")
    if is_object and name in EXTRAS:
        return EXTRAS[name](self)
    if python_member(kind, name):
        if name in facts.own(known) or name not in facts.properties(known) or not asked_by_python(name):
            return native_attribute(self, name)
        return get_property(self, name)
    if name in facts.properties(known) and is_object:
        return listed_property(self, name, known) if asked_by_python(name) else Unlisted(known, name)
    if name in facts.signals(known):
        return listed_signal(self, name, known)
    if not hasattr(kind, name):
        raise HostLacksError(f"{known}.{name} is in Slicer, but not in the host")
    native = native_attribute(self, name)
    return NativeMethod(self, name, native) if callable(native) and not isinstance(native, type) else native


def asked_by_python(name: str) -> bool:
    """Whether Python code asks (``obj.name``, ``getattr``), and not Qt, which looks for an overriding method so as well."""
    frame = sys._getframe(2)
    code = frame.f_code
    if frame.f_lasti >= 0 and dis.opname[code.co_code[frame.f_lasti]] in LOADS:
        return name in code.co_names
    return name not in VIRTUAL_PROPERTIES and ("getattr" in code.co_names or "hasattr" in code.co_names)


class Unlisted:
    """The answer to Qt when it looks for an overriding method where there is none; a caller in Python is refused."""

    def __init__(self, known: str, name: str) -> None:
        self._what = f"{known} has no attribute named '{name}' in Slicer {current_facts().release}"

    def __call__(self, *_arguments: Any) -> Any:
        raise RefusedNameError(self._what)


def listed_property(self: Any, name: str, known: str) -> Any:
    """A property of Qt itself; those of stand-ins are found before."""
    if name in current_facts().own(known):
        raise HostLacksError(f"{known}.{name} is in Slicer, but not in the host")
    return get_property(self, name)


def listed_signal(self: Any, name: str, known: str) -> signals.BoundSignal:
    """A signal in the object form: the first overload."""
    own = own_signal(type(self), name)
    if own is not None and own in current_facts().signatures(known):
        return signals.BoundSignal(self, own, True)
    native = signals.native_signatures(self, name)
    if not native:
        raise HostLacksError(f"{known} of the host has no signal {name}")
    return signals.BoundSignal(self, native[0], False)


def get_unlisted(self: Any, name: str, known: str) -> Any:
    """What is left after all tables: a dynamic property, or a direct child by its object name."""
    if isinstance_of(self, QtCore.QObject):
        if name.encode() in [bytes(n.data()) for n in QtCore.QObject.dynamicPropertyNames(self)]:
            return QtCore.QObject.property(self, name)
        for child in QtCore.QObject.children(self):
            if QtCore.QObject.objectName(child) == name:
                return child
    raise RefusedNameError(f"{known} has no attribute named '{name}' in Slicer {current_facts().release}")


def set_attribute(self: Any, name: str, value: Any) -> None:
    """``__setattr__`` of every Qt type."""
    if _state.get("loading"):
        # PySide's loader of .ui files makes each child an attribute of the top widget.
        return
    kind = type(self)
    known = table_name(kind)
    # PySide keeps signals of a class written in Python as attributes.
    if name.startswith(("__", PRIVATE)) or not known or type(value).__name__ == "SignalInstance":
        object.__getattribute__(self, "__dict__")[name] = value
        return
    for one in kind.__mro__:
        held: Any = None if is_pyside(one) else one.__dict__.get(name)
        if hasattr(held, "__set__"):
            if is_standin(one) and name not in current_facts().visible(known):
                break
            held.__set__(self, value)
            return
    facts = current_facts()
    if isinstance_of(self, QtCore.QObject):
        if name == "name" and "name" not in facts.properties(known):
            QtCore.QObject.setObjectName(self, value)
            return
        if name in facts.properties(known):
            if name in facts.own(known):
                raise HostLacksError(f"{known}.{name} is in Slicer, but not in the host")
            set_property(self, name, value)
            return
        if name.encode() in [bytes(n.data()) for n in QtCore.QObject.dynamicPropertyNames(self)]:
            QtCore.QObject.setProperty(self, name, value)
            return
    if is_subclass_by_user(kind):
        object.__getattribute__(self, "__dict__")[name] = value
        return
    raise RefusedNameError(f"{known}.{name} can not be assigned in Slicer: it is no property")


def isinstance_of(value: Any, kind: type) -> bool:
    """``isinstance`` of Python, which the host takes away from code under test as PythonQt does."""
    return kind in type(value).__mro__


def as_pythonqt_isinstance(cls: type, instance: Any) -> bool:
    """PythonQt's types have no inheritance: an object is an instance of its exact class only."""
    kind = type(instance)
    if is_pyside(cls) and not is_pyside(kind) and not is_standin(kind):
        nearest = next((c for c in kind.__mro__ if is_pyside(c)), None)
        return nearest is cls
    if is_pyside(cls) or is_standin(cls):
        return kind is cls
    return cls in kind.__mro__


def call_type(cls: type, *arguments: Any, **keywords: Any) -> Any:
    """Construct a Qt object; no keyword arguments."""
    if keywords and (is_pyside(cls) or is_standin(cls)):
        raise ValueError(f"{cls.__name__} takes no keyword arguments in Slicer: {sorted(keywords)}")
    return type.__call__(cls, *[as_qt(a) for a in arguments], **keywords)


def delete(owner: Any) -> None:
    """End a QObject at once."""
    import shiboken6

    shiboken6.delete(owner)


def qt_class_name(owner: Any) -> str:
    """``className()``."""
    kind = type(owner)
    return kind.__name__ if is_standin(kind) else str(QtCore.QObject.metaObject(owner).className())


def inherits(owner: Any, name: str) -> bool:
    """``inherits()``: a stand-in inherits what the real class does."""
    return name in current_facts().chain(table_name(type(owner))) or QtCore.QObject.inherits(owner, name)


def dynamic_or_own(owner: Any, name: str) -> Any:
    """``property()``."""
    if name in current_facts().own(table_name(type(owner))):
        return getattr(owner, name)
    return as_python(QtCore.QObject.property(owner, name))


def set_dynamic_or_own(owner: Any, name: str, value: Any) -> bool:
    """``setProperty()``."""
    if name in current_facts().own(table_name(type(owner))):
        setattr(owner, name, value)
        return True
    return bool(QtCore.QObject.setProperty(owner, name, as_qt(value)))


EXTRAS: dict[str, Any] = {
    "name": lambda owner: (
        get_property(owner, "name")
        if "name" in current_facts().properties(table_name(type(owner)))
        else QtCore.QObject.objectName(owner)
    ),
    "className": lambda owner: lambda: qt_class_name(owner),
    "inherits": lambda owner: lambda name: inherits(owner, name),
    "delete": lambda owner: lambda: delete(owner),
    "help": lambda _owner: lambda: "",
    "property": lambda owner: lambda name: dynamic_or_own(owner, name),
    "setProperty": lambda owner: lambda name, value: set_dynamic_or_own(owner, name, value),
}


def qt_types() -> list[type]:
    """All classes of PySide6 that the host changes."""
    found: dict[str, type] = {}
    for module in PYSIDE_MODULES:
        for name in dir(module):
            held = getattr(module, name)
            if isinstance(held, type) and is_pyside(held) and type(held).__name__ == "ObjectType" and name != "Qt":
                found.setdefault(name, held)
    return list(found.values())


@contextlib.contextmanager
def loading_ui(loading: bool = True) -> Iterator[None]:
    """While Qt reads a ``.ui`` file; False within, while a stand-in of it is made."""
    before = _state.get("loading", False)
    _state["loading"] = loading
    try:
        yield
    finally:
        _state["loading"] = before


def patch(facts: Facts) -> None:
    """Change PySide6's types; once a process."""
    if "facts" in _state:
        use_facts(facts)
        return
    use_facts(facts)
    every = qt_types()
    _getters.update({kind: kind.__getattribute__ for kind in every})
    for kind in every:
        if not facts.is_qt_class(kind.__name__) and "QObject" not in [c.__name__ for c in kind.__mro__]:
            continue
        kind.__getattribute__ = get_attribute  # type: ignore[assignment]
        kind.__setattr__ = set_attribute  # type: ignore[assignment]
        for held in vars(kind).values():
            if isinstance(held, enum.EnumMeta) and not issubclass(held, (int, enum.Flag)):
                enums_as_integers(held)
    for held in vars(QtCore.Qt).values():
        if isinstance(held, enum.EnumMeta) and not issubclass(held, (int, enum.Flag)):
            enums_as_integers(held)
    meta: Any = type(QtCore.QObject)
    meta.__instancecheck__ = as_pythonqt_isinstance
    meta.__call__ = call_type


def enums_as_integers(kind: Any) -> None:
    """PythonQt's enum values are integers: ``qt.Qt.Checked == 2``."""
    compare = kind.__eq__

    def equal(self: Any, other: object) -> Any:
        return self.value == other if type(other) is int else compare(self, other)

    kind.__eq__ = equal
    kind.__hash__ = lambda self: hash(self.value)
    kind.__int__ = lambda self: self.value
    kind.__index__ = lambda self: self.value
