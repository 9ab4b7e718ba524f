"""The tables of names that exist in the real application, for the release that the host plays."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

SLICER_TABLE = "slicer-api.json"
QT_TABLE = "qt-pythonqt-api.json"
FIRST_RELEASE = "5.10.0"
"""The oldest release that the module has to run in."""
LAST_RELEASE = "5.13-dev"
RELEASES = (FIRST_RELEASE, "5.12.3", LAST_RELEASE)

ON_EVERY_OBJECT = frozenset({"connect", "disconnect", "name", "className", "inherits", "delete", "help"})
"""What PythonQt adds to every QObject."""


def reference_folder() -> Path | None:
    """Where the tables lie: beside the shared data, or None where they are absent."""
    named = os.environ.get("P2SAM_SHARED_DATA")
    data = Path(named) if named else Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = data.parent / "reference"
    return folder if (folder / SLICER_TABLE).is_file() and (folder / QT_TABLE).is_file() else None


class Facts:
    """What each class and Python module of Slicer has at one release.

    With the oldest release a name has to be in all later ones as well; with a later one, in that one.
    """

    def __init__(self, folder: Path, release: str = FIRST_RELEASE) -> None:
        self._slicer: dict[str, Any] = _table(folder / SLICER_TABLE)
        self._qt: dict[str, Any] = _table(folder / QT_TABLE)
        if release not in RELEASES:
            raise ValueError(f"no table for Slicer {release}; there are {', '.join(RELEASES)}")
        self.release = release
        self._needed = frozenset(RELEASES) if release == FIRST_RELEASE else frozenset({release})
        self._members: dict[str, dict[str, frozenset[str]]] = {}
        self._chains: dict[str, list[str]] = {}

    def has(self, entry: dict[str, Any]) -> bool:
        """Whether an entry of the tables is there at this release."""
        return all(self._needed <= set(entry[key]) for key in ("only_in", "releases", "in") if key in entry)

    def is_slicer_class(self, name: str) -> bool:
        """Whether Slicer or CTK has a class of this name."""
        return name in self._slicer["classes"] and self.has(self._slicer["classes"][name])

    def is_qt_class(self, name: str) -> bool:
        """Whether PythonQt has a Qt class of this name."""
        return name in self._qt["classes"]

    def constructible(self, name: str) -> bool:
        """Whether Python code may make an object of the class."""
        return bool(self._slicer["classes"][name]["python"].get("constructible"))

    def namespace(self, module: str) -> frozenset[str]:
        """Names of the Qt-like classes in ``slicer`` or ``ctk``."""
        return frozenset(self._slicer["namespaces"][module])

    def qt_classes(self) -> list[str]:
        """Names of all Qt classes."""
        return list(self._qt["classes"])

    def qt_functions(self) -> list[str]:
        """Names of the plain functions of ``qt``."""
        return list(self._qt["functions"])

    def chain(self, name: str) -> list[str]:
        """A class and its bases, up to the Qt class included."""
        if name not in self._chains:  # asked for with every attribute of a widget
            self._chains[name] = self._read_chain(name)
        return self._chains[name]

    def _read_chain(self, name: str) -> list[str]:
        if not self.is_slicer_class(name):
            return self._qt_chain(name)
        entry = self._slicer["classes"][name]
        own = [c for c in entry["chain"] if c in self._slicer["classes"]]
        return own + self._qt_chain(entry.get("qt_base", ""))

    def properties(self, name: str) -> frozenset[str]:
        """Names of the properties of a class, with those of its bases."""
        return self._of(name)["properties"]

    def signals(self, name: str) -> frozenset[str]:
        """Names of the signals of a class, with those of its bases."""
        return self._of(name)["signals"]

    def signatures(self, name: str) -> frozenset[str]:
        """C++ signatures of the signals that Slicer and CTK add; those of Qt are known to Qt itself."""
        return self._of(name)["signatures"]

    def slots(self, name: str) -> frozenset[str]:
        """C++ signatures of the slots that Slicer and CTK add."""
        return self._of(name)["slots"]

    def own(self, name: str) -> frozenset[str]:
        """Names that Slicer and CTK add to the Qt class."""
        return self._of(name)["own"]

    def visible(self, name: str) -> frozenset[str]:
        """All names that Python sees on an object of the class."""
        return self._of(name)["visible"]

    def connectors(self) -> list[dict[str, Any]]:
        """Which widget types a parameter node can be bound to."""
        return list(self._slicer["parameter_node_connectors"])

    def modules(self) -> dict[str, str]:
        """Slicer's own modules by name, with their kind (loadable, scripted, cli)."""
        return {name: entry["kind"] for name, entry in self._slicer["slicer_modules"].items() if self.has(entry)}

    def python_module(self, name: str) -> dict[str, Any] | None:
        """The table of a Python module, or None where this release has no such module."""
        entry = self._slicer["python_modules"].get(name)
        return entry if entry is not None and self.has(entry) else None

    def absent_names(self, module: str) -> list[str]:
        """Functions and classes of a Python module that this release does not have, though another one has."""
        entry = self._slicer["python_modules"][module]
        return [n for part in ("functions", "classes") for n, held in entry[part].items() if not self.has(held)]

    def parameters(self, module: str, function: str) -> set[str] | None:
        """Names of a function's parameters where this release takes others than the newest one, else None."""
        entry = self._slicer["python_modules"][module]["functions"][function]
        other = entry.get("other_signatures", {}).get(self.release)
        return None if other is None else {str(one).partition("=")[0].strip() for one in other}

    def differing_functions(self, module: str) -> list[str]:
        """Functions whose parameters differ between releases."""
        return [n for n, held in self._slicer["python_modules"][module]["functions"].items() if "other_signatures" in held]

    def _qt_chain(self, name: str) -> list[str]:
        found: list[str] = []
        while name in self._qt["classes"]:
            found.append(name)
            name = self._qt["classes"][name].get("base", "")
        return found

    def _of(self, name: str) -> dict[str, frozenset[str]]:
        if name not in self._members:
            self._members[name] = self._read(name)
        return self._members[name]

    def _read(self, name: str) -> dict[str, frozenset[str]]:
        sets: dict[str, set[str]] = {k: set() for k in ("properties", "signals", "signatures", "slots", "own", "visible")}
        for one in self.chain(name):
            if one in self._slicer["classes"]:
                self._read_slicer(one, sets)
            else:
                held = self._qt["classes"][one]
                sets["properties"].update(held.get("properties", ()))
                sets["signals"].update(held.get("signals", ()))
                for part in ("properties", "methods", "signals", "enum_types", "enum_values"):
                    sets["visible"].update(held.get(part, ()))
        sets["visible"] |= sets["own"] | ON_EVERY_OBJECT
        return {key: frozenset(held) for key, held in sets.items()}

    def _read_slicer(self, name: str, sets: dict[str, set[str]]) -> None:
        entry = self._slicer["classes"][name]
        for member, held in entry["properties"].items():
            if self.has(held):
                sets["properties"].add(member)
                sets["own"].add(member)
        for part, signatures in (("signals", "signatures"), ("slots", "slots"), ("invokables", "")):
            for member, overloads in entry[part].items():
                there = [o["sig"] for o in overloads if self.has(o)]
                if there:
                    sets["own"].add(member)
                    if signatures:
                        sets[signatures].update(there)
                    if part == "signals":
                        sets["signals"].add(member)
        for member, held in entry.get("enums", {}).items():
            sets["own"].add(member)
            sets["own"].update(held["values"])
        for member, overloads in self._slicer["decorators"].get(name, {}).items():
            if any(self.has(o) for o in overloads):
                sets["own"].add(member)


@lru_cache(maxsize=4)
def _table(path: Path) -> dict[str, Any]:
    """A table; read once in a process, as it is large."""
    return dict(json.loads(path.read_text(encoding="utf-8")))
