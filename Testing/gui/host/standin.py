"""What stand-ins are made of: properties, the check of their names against the tables, and objects that are no widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from host import qt_types, signals
from host.facts import Facts
from host.refusals import HostLacksError, RefusedNameError, RefusedSignalError

Kind = TypeVar("Kind", bound=type)

REGISTERED: dict[str, dict[str, type]] = {"ctk": {}, "slicer": {}}
"""Stand-ins by module and class name."""


class HostProperty:
    """A property of a stand-in that is only kept, and what to do when it changes.

    :param default: value before it was assigned; it also gives the type that assigned values are brought to.
    :param changed: called with the object after each change.
    """

    def __init__(self, default: Any, changed: Callable[[Any], None] | None = None) -> None:
        self._default = default
        self._changed = changed
        self._name = ""

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, owner: Any, _kind: type | None = None) -> Any:
        if owner is None:
            return self
        return signals.store(owner).get(self._name, self._default)

    def __set__(self, owner: Any, value: Any) -> None:
        notes = signals.store(owner)
        value = self._as_type(value, type(owner).__name__)
        if notes.get(self._name, self._default) == value and self._name in notes:
            return
        notes[self._name] = value
        if self._changed is not None:
            self._changed(owner)

    def _as_type(self, value: Any, kind: str) -> Any:
        wanted = self._default
        try:
            if type(wanted) in (bool, int, float):
                return type(wanted)(value)
            if type(wanted) is str:
                return "" if value is None else str(value)
            if type(wanted) is tuple:
                return tuple(value.split(";")) if isinstance(value, str) and value else tuple(value)
        except (TypeError, ValueError) as error:
            raise AttributeError(f"{kind}.{self._name} does not take {value!r}") from error
        return value


def standin(module: str, own_signals: tuple[str, ...] = ()) -> Callable[[Kind], Kind]:
    """Class decorator: this class stands in for the one of the same name in ``slicer`` or ``ctk``."""

    def register(kind: Kind) -> Kind:
        kind._h_standin = True  # type: ignore[attr-defined]
        kind._h_signals = own_signals  # type: ignore[attr-defined]
        REGISTERED[module][kind.__name__] = kind
        return kind

    return register


def setter(name: str) -> Callable[[Any, Any], None]:
    """A method of a stand-in that assigns one of its properties, for the few setters that Python sees."""

    def assign(self: Any, value: Any) -> None:
        setattr(self, name, value)

    assign.__doc__ = f"Assign {name}."
    return assign


def check_names(facts: Facts) -> list[str]:
    """Names and signals that stand-ins define and the release does not have: faults of the host itself."""
    wrong = []
    for kinds in REGISTERED.values():
        for name, kind in kinds.items():
            public = [m for m in vars(kind) if not m.startswith("_") and m != "staticMetaObject"]
            wrong += [f"{name}.{m}" for m in public if m not in facts.visible(name)]
            wrong += [f"{name}: {s}" for s in kind.__dict__["_h_signals"] if s not in facts.signatures(name)]
    return wrong


class StrictObject:
    """A stand-in for an object that is no widget: the application, a module, the layout manager.

    Sub-classes name their class in the tables (``_table``) and what they do themselves; any other listed name is looked up at
    ``_delegate`` (a Qt object) and else is a :class:`HostLacksError`.
    """

    _table = ""
    _own_signals: tuple[str, ...] = ()
    _delegate: Any = None

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        table = object.__getattribute__(self, "_table")
        facts = qt_types.current_facts()
        if name not in facts.visible(table):
            raise RefusedNameError(f"{table} has no attribute named '{name}' in Slicer {facts.release}")
        if name in ("connect", "disconnect"):
            return self._connector(name == "disconnect")
        try:
            return object.__getattribute__(self, name)
        except RefusedNameError:
            raise
        except AttributeError:
            return self._fallback(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
            return
        facts = qt_types.current_facts()
        if name not in facts.properties(self._table):
            raise RefusedNameError(f"{self._table}.{name} can not be assigned in Slicer: it is no property")
        object.__setattr__(self, name, value)

    def className(self) -> str:
        """Name of the C++ class."""
        return self._table

    def inherits(self, name: str) -> bool:
        """Whether the C++ class is or derives from another."""
        return name in qt_types.current_facts().chain(self._table)

    def _fallback(self, name: str) -> Any:
        facts = qt_types.current_facts()
        if name in facts.signals(self._table):
            for signature in self._own_signals:
                if signature.partition("(")[0] == name:
                    return StrictSignal(self, signature)
        if self._delegate is not None and name not in facts.own(self._table):
            return getattr(self._delegate, name)
        raise HostLacksError(f"{self._table}.{name} is in Slicer, but not in the host")

    def _connector(self, undo: bool) -> Callable[[str, Callable[..., Any]], bool]:
        def connect(signature: str, function: Callable[..., Any]) -> bool:
            wanted = signals.normalized(signature)
            if wanted not in self._own_signals:
                if wanted in qt_types.current_facts().signatures(self._table):
                    raise HostLacksError(f"{self._table} of the host does not emit {wanted}")
                if self._delegate is not None:
                    return bool((self._delegate.disconnect if undo else self._delegate.connect)(signature, function))
                raise RefusedSignalError(f'{self._table} has no signal "{signature}" in Slicer')
            held = self.__dict__.setdefault("_connections", [])
            if not undo:
                held.append((wanted, function))
                return True
            if (wanted, function) in held:
                held.remove((wanted, function))
                return True
            return False

        return connect

    def _emit(self, signature: str, *arguments: Any) -> None:
        from host import slots

        for one, function in list(self.__dict__.get("_connections", ())):
            if one == signature:
                slots.call(function, arguments)


class StrictSignal:
    """A signal of a strict object in the object form."""

    def __init__(self, owner: Any, signature: str) -> None:
        self._owner, self._signature = owner, signature

    def connect(self, function: Callable[..., Any], /) -> bool:
        """Call a function at each emission."""
        return bool(self._owner.connect(self._signature, function))

    def disconnect(self, function: Callable[..., Any], /) -> bool:
        """Undo one connection."""
        return bool(self._owner.disconnect(self._signature, function))

    def emit(self, *arguments: Any) -> None:
        """Emit the signal."""
        self._owner._emit(self._signature, *arguments)

    __call__ = emit
