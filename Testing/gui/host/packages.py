"""Python modules of Slicer that a scripted module asks for: translations, sample data, packaging, the PyTorch extension."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host.refusals import HostLacksError


@dataclass
class Calls:
    """What was asked of a recorded module, and what it answers."""

    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    def record(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], default: Any) -> Any:
        """Note a call and answer it; an exception as the answer is raised, a function is called."""
        self.made.append((name, arguments, keywords))
        answer = self.answers.get(name, default)
        if isinstance(answer, BaseException):
            raise answer
        return answer(*arguments, **keywords) if callable(answer) else answer

    def names(self) -> list[str]:
        """Names of the functions that were called."""
        return [name for name, _arguments, _keywords in self.made]


def make_i18n() -> types.ModuleType:
    """``slicer.i18n``: no translation is installed, so texts stay as they are."""
    module = types.ModuleType("slicer.i18n")

    def translate(context: Any, text: str) -> str:
        del context
        return text

    def tr(text: str) -> str:
        if type(text) is not str:
            raise TypeError(f"only a text can be translated, not {text!r}")
        return text

    module.translate, module.tr = translate, tr  # type: ignore[attr-defined]
    module.getContext = lambda sourceFile: Path(sourceFile).stem  # type: ignore[attr-defined]
    return module


class SampleDataSource:
    """One registered data set."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def make_sample_data(facts: Any) -> types.ModuleType:
    """``SampleData`` with the register only; nothing is fetched."""
    module = types.ModuleType("SampleData")
    entry = facts.python_module("SampleData")["classes"]["SampleDataLogic"]["methods"]["registerCustomSampleDataSource"]
    allowed = [p["name"] for p in entry["params"]]
    sources: dict[str, list[SampleDataSource]] = {}

    class SampleDataLogic:
        """The register."""

        @staticmethod
        def registerCustomSampleDataSource(category: str = "Custom", **values: Any) -> None:
            """Register a data set."""
            unknown = [v for v in values if v not in allowed]
            if unknown:
                raise TypeError(f"registerCustomSampleDataSource has no parameters {unknown}")
            as_lists = {
                k: [v] if type(v) is str else v
                for k, v in values.items()
                if k in ("uris", "fileNames", "nodeNames", "checksums")
            }
            lengths = {k: len(v) for k, v in as_lists.items() if v is not None}
            if len(set(lengths.values())) > 1:
                raise ValueError(f"lists of unequal length: {lengths}")
            thumbnail = values.get("thumbnailFileName")
            if thumbnail is not None and not Path(thumbnail).is_file():
                raise ValueError(f"no such picture: {thumbnail}")
            sources.setdefault(category, []).append(SampleDataSource(**{**values, **as_lists}))

        @staticmethod
        def sampleDataSourcesByCategory(category: str | None = None) -> Any:
            """What was registered."""
            return sources if category is None else sources.get(category, [])

    module.SampleDataLogic = SampleDataLogic  # type: ignore[attr-defined]
    module.SampleDataSource = SampleDataSource  # type: ignore[attr-defined]
    return module


def make_packaging(facts: Any, calls: Calls) -> types.ModuleType | None:
    """``slicer.packaging`` where the release has it: nothing is installed, calls are recorded."""
    entry = facts.python_module("slicer.packaging")
    if entry is None:
        return None
    module = types.ModuleType("slicer.packaging")
    defaults = {"pip_check": True, "load_requirements": lambda path: Path(path).read_text(encoding="utf-8").splitlines()}
    for name, function in entry["functions"].items():
        if not name.startswith("_") and facts.has(function):
            parameters = facts.parameters("slicer.packaging", name) or {p["name"] for p in function["params"]}
            setattr(module, name, _recorded(calls, name, parameters, defaults.get(name)))
    return module


def _recorded(calls: Calls, name: str, parameters: set[str], default: Any) -> Any:
    def function(*arguments: Any, **keywords: Any) -> Any:
        unknown = set(keywords) - parameters
        if unknown or len(arguments) + len(keywords) > len(parameters):
            raise TypeError(f"{name} has no parameters {sorted(unknown)}; it has {sorted(parameters)}")
        answer = calls.answers.get(name, default)
        return calls.record(name, arguments, keywords, answer)

    return function


def make_pytorch(calls: Calls) -> types.ModuleType:
    """``PyTorchUtils`` of the PyTorch extension: nothing is installed, calls are recorded."""
    module = types.ModuleType("PyTorchUtils")

    class PyTorchUtilsLogic:
        """The part of the extension that others use."""

        def torchInstalled(self) -> bool:
            """Whether torch is there."""
            return bool(calls.record("torchInstalled", (), {}, True))

        def installTorch(
            self,
            askConfirmation: bool = False,
            forceComputationBackend: str | None = None,
            torchVersionRequirement: str | None = None,
            torchvisionVersionRequirement: str | None = None,
        ) -> Any:
            """Install torch; the module, or None when the user declined."""
            given = {
                "askConfirmation": askConfirmation,
                "forceComputationBackend": forceComputationBackend,
                "torchVersionRequirement": torchVersionRequirement,
                "torchvisionVersionRequirement": torchvisionVersionRequirement,
            }
            return calls.record("installTorch", (), given, None)

        def __getattr__(self, name: str) -> Any:
            if name in ("torch", "uninstallTorch", "getCompatibleComputationBackends", "getDevice", "cuda"):
                raise HostLacksError(f"PyTorchUtilsLogic.{name} is not in the host")
            raise AttributeError(f"PyTorchUtilsLogic has no attribute named '{name}'")

    module.PyTorchUtilsLogic = PyTorchUtilsLogic  # type: ignore[attr-defined]
    return module


def make_ctk(namespace: dict[str, type], names: frozenset[str]) -> types.ModuleType:
    """``ctk``: the stand-ins; other classes of CTK are not in the host, and the rest is refused."""
    from host.refusals import RefusedNameError

    class CtkModule(types.ModuleType):
        """Refuses unknown names."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            if name in names:
                raise HostLacksError(f"ctk.{name} is in Slicer, but not in the host")
            raise RefusedNameError(f"ctk has no attribute named '{name}' in Slicer")

    module = CtkModule("ctk")
    for name, kind in namespace.items():
        setattr(module, name, kind)
    return module
