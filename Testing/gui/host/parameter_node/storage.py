"""How typed values lie in a ``vtkMRMLScriptedModuleNode``: texts as parameters, nodes as references."""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from collections.abc import Callable, MutableMapping, MutableSequence
from typing import Any

from host.parameter_node.validators import IsInstance, NotNone, Validator
from host.refusals import HostLacksError

PLAIN = (str, int, float, bool)


class Storage:
    """Reads and writes one parameter."""

    def __init__(self, check: list[Validator]) -> None:
        self.check = check

    def default(self) -> Any:
        """The value before the first assignment."""
        raise NotImplementedError

    def is_in(self, node: Any, name: str) -> bool:
        """Whether the node has a value."""
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        """Check and keep a value."""
        for one in self.check:
            one.validate(value)
        self.put(node, name, value)

    def put(self, node: Any, name: str, value: Any) -> None:
        """Keep a value."""
        raise NotImplementedError

    def read(self, node: Any, name: str) -> Any:
        """The value."""
        raise NotImplementedError


class TextStorage(Storage):
    """A value as a text."""

    def __init__(self, kind: Any, check: list[Validator], to_text: Callable[[Any], str], of_text: Callable[[str], Any]) -> None:
        super().__init__(check)
        self.kind, self.to_text, self.of_text = kind, to_text, of_text

    def default(self) -> Any:
        if issubclass(self.kind, enum.Enum):
            return next(iter(self.kind))
        return self.kind()

    def put(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(name, self.to_text(value))

    def read(self, node: Any, name: str) -> Any:
        return self.of_text(node.GetParameter(name))


class NodeStorage(Storage):
    """A node of the scene as a reference, so that a saved scene finds it again."""

    def default(self) -> Any:
        return None

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.GetNodeReferenceID(name))

    def put(self, node: Any, name: str, value: Any) -> None:
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)


class ListStorage(Storage):
    """A list, one parameter or reference an item and one for the length."""

    def __init__(self, item: Storage, check: list[Validator]) -> None:
        super().__init__(check)
        self.item = item

    def default(self) -> Any:
        return []

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(f"{name}_length"))

    def put(self, node: Any, name: str, value: Any) -> None:
        import slicer

        values = list(value)
        for one in values:
            for check in self.item.check:
                check.validate(one)
        with slicer.util.NodeModify(node):
            for place, one in enumerate(values):
                self.item.write(node, f"{name}_{place}", one)
            node.SetParameter(f"{name}_length", str(len(values)))

    def read(self, node: Any, name: str) -> Any:
        length = int(node.GetParameter(f"{name}_length") or 0)
        return KeptList([self.item.read(node, f"{name}_{place}") for place in range(length)], self, node, name)


class TupleStorage(Storage):
    """A fixed number of values, each of its own type."""

    def __init__(self, items: list[Storage], check: list[Validator]) -> None:
        super().__init__(check)
        self.items = items

    def default(self) -> Any:
        return tuple(one.default() for one in self.items)

    def is_in(self, node: Any, name: str) -> bool:
        return all(one.is_in(node, f"{name}_{place}") for place, one in enumerate(self.items))

    def put(self, node: Any, name: str, value: Any) -> None:
        if len(value) != len(self.items):
            raise ValueError(f"{name} has {len(self.items)} values, not {len(value)}")
        for place, (item, one) in enumerate(zip(self.items, value, strict=True)):
            item.write(node, f"{name}_{place}", one)

    def read(self, node: Any, name: str) -> Any:
        return tuple(one.read(node, f"{name}_{place}") for place, one in enumerate(self.items))


class DictStorage(Storage):
    """A mapping as a list of keys and one of values."""

    def __init__(self, key: Storage, value: Storage, check: list[Validator]) -> None:
        super().__init__(check)
        self.keys, self.values = ListStorage(key, []), ListStorage(value, [])

    def default(self) -> Any:
        return {}

    def is_in(self, node: Any, name: str) -> bool:
        return self.keys.is_in(node, f"{name}_keys")

    def put(self, node: Any, name: str, value: Any) -> None:
        self.keys.write(node, f"{name}_keys", list(value))
        self.values.write(node, f"{name}_values", list(value.values()))

    def read(self, node: Any, name: str) -> Any:
        pairs = zip(self.keys.read(node, f"{name}_keys"), self.values.read(node, f"{name}_values"), strict=True)
        return KeptDict(dict(pairs), self, node, name)


class KeptList(MutableSequence):  # type: ignore[type-arg]
    """A list that writes itself back when it changes."""

    def __init__(self, values: list[Any], storage: Storage, node: Any, name: str) -> None:
        self._values, self._storage, self._node, self._name = values, storage, node, name

    def __getitem__(self, place: Any) -> Any:
        return self._values[place]

    def __setitem__(self, place: Any, value: Any) -> None:
        self._change(lambda held: held.__setitem__(place, value))

    def __delitem__(self, place: Any) -> None:
        self._change(lambda held: held.__delitem__(place))

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (list, KeptList)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._values)

    def insert(self, place: int, value: Any) -> None:
        """As of a list."""
        self._change(lambda held: held.insert(place, value))

    def _change(self, change: Callable[[list[Any]], None]) -> None:
        held = list(self._values)
        change(held)
        self._storage.write(self._node, self._name, held)
        self._values = held


class KeptDict(MutableMapping):  # type: ignore[type-arg]
    """A mapping that writes itself back when it changes."""

    def __init__(self, values: dict[Any, Any], storage: Storage, node: Any, name: str) -> None:
        self._values, self._storage, self._node, self._name = values, storage, node, name

    def __getitem__(self, key: Any) -> Any:
        return self._values[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._keep({**self._values, key: value})

    def __delitem__(self, key: Any) -> None:
        held = dict(self._values)
        del held[key]
        self._keep(held)

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)

    def _keep(self, held: dict[Any, Any]) -> None:
        self._storage.write(self._node, self._name, held)
        self._values = held


def node_types(kind: Any) -> tuple[type, ...] | None:
    """The node classes that a type names (one, or a union), or None for another type."""
    import slicer

    parts = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    parts = tuple(p for p in parts if p is not type(None))
    if parts and all(isinstance(p, type) and issubclass(p, slicer.vtkMRMLNode) for p in parts):
        return parts
    return None


def storage_of(kind: Any, validators: list[Validator]) -> Storage:
    """How a type is kept.

    :raises HostLacksError: the host does not know the type.
    """
    if typing.get_origin(kind) is typing.Annotated:
        inner, *notes = typing.get_args(kind)
        return storage_of(inner, [n for n in notes if isinstance(n, Validator)] + validators)
    nodes = node_types(kind)
    if nodes is not None:
        return NodeStorage([IsInstance((*nodes, type(None))), *validators])
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return ListStorage(storage_of(parts[0], []), [NotNone(), *validators])
    if origin is tuple:
        return TupleStorage([storage_of(p, []) for p in parts], [NotNone(), *validators])
    if origin is dict:
        return DictStorage(storage_of(parts[0], []), storage_of(parts[1], []), [NotNone(), *validators])
    if isinstance(kind, type):
        return text_storage(kind, validators)
    raise HostLacksError(f"the host keeps no parameter of type {kind}")


def text_storage(kind: type, validators: list[Validator]) -> Storage:
    """A plain type as a text."""
    accepted: Any = (float, int) if kind is float else kind
    check = [NotNone(), IsInstance(accepted), *validators]
    if kind is bool:
        return TextStorage(kind, check, lambda value: "true" if value else "false", lambda text: text == "true")
    if kind in PLAIN or issubclass(kind, pathlib.PurePath):
        return TextStorage(kind, check, str, kind)
    if issubclass(kind, enum.Enum):
        return TextStorage(kind, check, lambda value: value.name, lambda text: kind[text])
    raise HostLacksError(f"the host keeps no parameter of type {kind}")
