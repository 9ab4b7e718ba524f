"""Signals as PythonQt shows them: ``obj.signal.connect(f)``, ``obj.connect("signal(int)", f)``, ``obj.signal(x)``.

A signature that is not in the tables is refused; PythonQt would return False and go on without the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6 import QtCore

from host import slots
from host.refusals import HostLacksError, RefusedSignalError

NATIVE_CONNECT = QtCore.QObject.connect
NATIVE_DISCONNECT = QtCore.QObject.disconnect
_signatures: dict[tuple[type, str], list[str]] = {}
"""Signals of each type of Qt; its methods are gone through once for each."""


def store(owner: Any) -> dict[str, Any]:
    """The host's own notes on an object, out of the way of its attributes."""
    held: dict[str, Any] = object.__getattribute__(owner, "__dict__").setdefault("_h_notes", {})
    return held


def normalized(signature: str) -> str:
    """A C++ signature as Qt writes it."""
    if "(" not in signature or not signature.endswith(")"):
        raise RefusedSignalError(f'"{signature}" is no signature: write "name(types)" as in C++')
    return str(bytes(QtCore.QMetaObject.normalizedSignature(signature).data()).decode())


def native_signatures(owner: Any, name: str) -> list[str]:
    """Signatures of a Qt signal, the one that PythonQt takes first at the front."""
    kind = type(owner)
    if (kind, name) not in _signatures:
        _signatures[kind, name] = _read_signatures(owner, name)
    return _signatures[kind, name]


def _read_signatures(owner: Any, name: str) -> list[str]:
    meta = QtCore.QObject.metaObject(owner)
    found = []
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal and bytes(method.name().data()).decode() == name:
            found.append(bytes(method.methodSignature().data()).decode())
    return found


def argument_count(signature: str) -> int:
    """How many arguments a signature carries."""
    inside = signature.partition("(")[2][:-1]
    depth = 0
    count = 1 if inside else 0
    for letter in inside:
        depth += (letter == "<") - (letter == ">")
        count += letter == "," and depth == 0
    return count


def connect(owner: Any, signature: str, function: Callable[..., Any], is_own: bool) -> bool:
    """Connect a checked signature; ``is_own``: a signal of a stand-in, which Qt does not know."""
    if not callable(function):
        raise TypeError(f"{function!r} can not be called: no slot for {signature}")
    connections = store(owner).setdefault("connections", [])
    if is_own:
        connections.append((signature, function, None))
        return True
    receiver = slots.of_arity(function, argument_count(signature))
    NATIVE_CONNECT(owner, QtCore.SIGNAL(signature), receiver)
    connections.append((signature, function, receiver))
    return True


def disconnect(owner: Any, signature: str, function: Callable[..., Any]) -> bool:
    """Undo one connection; False where there is none."""
    connections = store(owner).setdefault("connections", [])
    for entry in connections:
        if entry[0] == signature and entry[1] == function:
            connections.remove(entry)
            if entry[2] is not None:
                NATIVE_DISCONNECT(owner, QtCore.SIGNAL(signature), entry[2])
            return True
    return False


def emit(owner: Any, signature: str, *arguments: Any) -> None:
    """Call the slots of a stand-in's own signal."""
    if QtCore.QObject.signalsBlocked(owner):
        return
    for entry in list(store(owner).get("connections", ())):
        if entry[0] == signature and entry[2] is None:
            slots.call(entry[1], arguments)


class BoundSignal:
    """A signal of one object."""

    def __init__(self, owner: Any, signature: str, is_own: bool) -> None:
        self._owner = owner
        self._signature = signature
        self._is_own = is_own

    def connect(self, function: Callable[..., Any], /) -> bool:
        """Call a function at each emission."""
        return connect(self._owner, self._signature, function, self._is_own)

    def disconnect(self, function: Callable[..., Any], /) -> bool:
        """Undo one connection."""
        return disconnect(self._owner, self._signature, function)

    def emit(self, *arguments: Any) -> None:
        """Emit the signal."""
        if self._is_own:
            emit(self._owner, self._signature, *arguments)
            return
        name = self._signature.partition("(")[0]
        getattr(type(self._owner), name).__get__(self._owner).emit(*arguments)

    __call__ = emit


class BoundConnect:
    """``connect`` or ``disconnect`` of one object."""

    def __init__(self, owner: Any, resolve: Callable[[str], tuple[str, bool]], undo: bool) -> None:
        self._owner = owner
        self._resolve = resolve
        self._undo = undo

    def __call__(self, *arguments: Any) -> Any:
        """``("signal(types)", callable)`` or ``("signal(types)", receiver, "slot(types)")``."""
        if not arguments or not isinstance(arguments[0], str) or arguments[0][:1].isdigit():
            # PySide connects in these ways itself, for example a single-shot timer.
            native = NATIVE_DISCONNECT if self._undo else NATIVE_CONNECT
            return native(*arguments) if arguments and arguments[0] is self._owner else native(self._owner, *arguments)
        signature, is_own = self._resolve(arguments[0])
        if len(arguments) == 2:
            function = arguments[1]
        elif len(arguments) == 3 and isinstance(arguments[2], str):
            function = slot_of(arguments[1], arguments[2])
        else:
            raise HostLacksError(f"connect with {len(arguments)} arguments")
        return disconnect(self._owner, signature, function) if self._undo else connect(self._owner, signature, function, is_own)


def slot_of(receiver: Any, signature: str) -> Callable[..., Any]:
    """The method of a receiver that a slot's signature names; the same one each time, so that it can be disconnected."""
    from host import qt_types

    wanted = normalized(signature)
    facts = qt_types.current_facts()
    kind = qt_types.table_name(type(receiver))
    if wanted not in facts.slots(kind) and QtCore.QObject.metaObject(receiver).indexOfSlot(wanted) < 0:
        raise RefusedSignalError(f"{kind} has no slot {signature}")
    known: dict[str, Callable[..., Any]] = store(receiver).setdefault("slots", {})
    if wanted not in known:
        method, count = getattr(receiver, wanted.partition("(")[0]), argument_count(wanted)
        known[wanted] = lambda *arguments: method(*arguments[:count])
    return known[wanted]
