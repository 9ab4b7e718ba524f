"""``slicer.parameterNodeWrapper``: typed parameters that are saved with the scene and bound to widgets."""

from __future__ import annotations

from typing import Any

from host.parameter_node.validators import (
    Choice,
    Decimals,
    Default,
    Exclude,
    IsInstance,
    Label,
    Maximum,
    Minimum,
    NotNone,
    RangeBounds,
    SingleStep,
    Validator,
    WithinRange,
)
from host.parameter_node.wrapper import (
    PARAMETER_NAME as SlicerParameterNamePropertyName,
)
from host.parameter_node.wrapper import (
    findChildWidgetForParameter,
    isParameterNodeWrapper,
    parameterNodeWrapper,
)

__all__ = [
    "Choice",
    "Decimals",
    "Default",
    "Exclude",
    "IsInstance",
    "Label",
    "Maximum",
    "Minimum",
    "NotNone",
    "RangeBounds",
    "SingleStep",
    "SlicerParameterNamePropertyName",
    "Validator",
    "WithinRange",
    "findChildWidgetForParameter",
    "isParameterNodeWrapper",
    "parameterNodeWrapper",
]

PREFIX = "slicer.parameterNodeWrapper"


def __getattr__(name: str) -> Any:
    from host import qt_types
    from host.refusals import HostLacksError

    if "facts" in qt_types._state:
        facts = qt_types.current_facts()
        for part in (
            "default",
            "guiConnectors",
            "guiCreation",
            "parameterPack",
            "serializers",
            "types",
            "validators",
            "wrapper",
        ):
            if name in (facts.python_module(f"{PREFIX}.{part}") or {}).get("__all__", ()):
                raise HostLacksError(f"{PREFIX}.{name} is in Slicer, but not in the host")
    raise AttributeError(f"{PREFIX} has no attribute named '{name}' in Slicer")
