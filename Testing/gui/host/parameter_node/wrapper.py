"""``@parameterNodeWrapper``: a class whose annotated attributes live in a ``vtkMRMLScriptedModuleNode``."""

from __future__ import annotations

import typing
from typing import Any

from PySide6 import QtWidgets

from host.parameter_node import connectors
from host.parameter_node.storage import Storage, storage_of
from host.parameter_node.validators import Default, Validator

PARAMETER_NAME = "SlicerParameterName"


class Parameter:
    """One attribute: its type as written, how it is kept, its default."""

    def __init__(self, owner: type, name: str, annotation: Any) -> None:
        notes = list(typing.get_args(annotation)[1:]) if typing.get_origin(annotation) is typing.Annotated else []
        kind = typing.get_args(annotation)[0] if notes else annotation
        self.name, self.annotation = name, annotation
        self.storage: Storage = storage_of(kind, [n for n in notes if isinstance(n, Validator)])
        given = [n for n in notes if isinstance(n, Default)]
        if name in vars(owner):
            self.default = Default(vars(owner)[name])
        else:
            self.default = given[0] if given else Default(generator=self.storage.default)

    def bound(self) -> property:
        """The attribute of the class."""
        return property(lambda wrapper: wrapper.getValue(self.name), lambda wrapper, value: wrapper.setValue(self.name, value))


class Wrapper:
    """What every wrapped class can do."""

    allParameters: dict[str, Parameter]

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._prefix = prefix or ""
        self._guis: dict[int, dict[str, connectors.Connector]] = {}
        self._next_tag = 0
        self._updating = False
        for name, parameter in self.allParameters.items():
            if not parameter.storage.is_in(parameterNode, self._prefix + name):
                parameter.storage.write(parameterNode, self._prefix + name, parameter.default.value)

    def default(self, paramName: str) -> Default:
        """The default of a parameter; its value is ``.value``."""
        return self._parameter(paramName).default

    def isCached(self, paramName: str) -> bool:
        """The host reads the node each time."""
        self._parameter(paramName)
        return False

    @classmethod
    def dataType(cls, membername: str) -> Any:
        """The annotation of a parameter."""
        return cls._parameter(membername).annotation

    def getValue(self, name: str) -> Any:
        """The value of a parameter; the default again where the node lost it, as when the scene was closed."""
        parameter = self._parameter(name)
        if not parameter.storage.is_in(self.parameterNode, self._prefix + name):
            parameter.storage.write(self.parameterNode, self._prefix + name, parameter.default.value)
        return parameter.storage.read(self.parameterNode, self._prefix + name)

    def setValue(self, name: str, value: Any) -> None:
        """Check and assign a parameter."""
        self._parameter(name).storage.write(self.parameterNode, self._prefix + name, value)

    def connectGui(self, gui: Any) -> None:
        """Bind every widget with the property ``SlicerParameterName``. As in Slicer no tag comes back."""
        is_widget = getattr(gui, "isWidgetType", lambda: False)()
        widgets = gui.findChildren(QtWidgets.QWidget) if is_widget else vars(gui).values()
        named = {w.property(PARAMETER_NAME): w for w in widgets if w.property(PARAMETER_NAME)}
        self.connectParametersToGui(named)

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Bind widgets by parameter name; the tag undoes it."""
        import vtk

        for name in mapping:
            self._parameter(name)
        made = {name: connectors.create(widget, self.dataType(name)) for name, widget in mapping.items()}
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        self._guis[tag] = made
        for name, connector in made.items():
            connector.write(self.getValue(name))
            connector.on_changed(self._changed_by_user(name, connector))
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda _caller, _event: self._update_gui())
        return tag

    def disconnectGui(self, guiTag: int | None) -> None:
        """Undo a binding."""
        for connector in self._guis.pop(guiTag, {}).values():  # type: ignore[arg-type]
            connector.on_changed(None)

    def StartModify(self) -> Any:
        """Begin a bulk change."""
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified: Any) -> Any:
        """End a bulk change."""
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        """Observe the node."""
        return int(self.parameterNode.AddObserver(event, callback, priority))

    def RemoveObserver(self, tag: int) -> None:
        """Observe no longer."""
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        """Tell observers of a change."""
        self.parameterNode.Modified()

    @classmethod
    def _parameter(cls, name: str) -> Parameter:
        if name not in cls.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}; found {list(cls.allParameters)}")
        return cls.allParameters[name]

    def _changed_by_user(self, name: str, connector: connectors.Connector) -> Any:
        def changed() -> None:
            import slicer

            with slicer.util.NodeModify(self):
                if not self._updating:
                    self.setValue(name, connector.read())

        return changed

    def _update_gui(self) -> None:
        import slicer

        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self):
                for gui in self._guis.values():
                    for name, connector in gui.items():
                        connector.write(self.getValue(name))
        finally:
            self._updating = False


def parameterNodeWrapper(classtype: type | None = None) -> Any:
    """Class decorator, with or without brackets."""

    def wrap(kind: type) -> type:
        annotations = typing.get_type_hints(kind, include_extras=True)
        parameters = {name: Parameter(kind, name, annotation) for name, annotation in annotations.items()}
        for name, held in vars(Wrapper).items():
            if name in parameters or (name in vars(kind) and not name.startswith("__")):
                raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
            if not name.startswith("__") or name == "__init__":
                setattr(kind, name, held)
        kind.allParameters = parameters  # type: ignore[attr-defined]
        for name, parameter in parameters.items():
            setattr(kind, name, parameter.bound())
        kind._is_parameter_node_wrapper = True  # type: ignore[attr-defined]
        return kind

    return wrap if classtype is None else wrap(classtype)


def isParameterNodeWrapper(classOrObj: Any) -> bool:
    """Whether a class was decorated, or an object is of such a class."""
    return bool(getattr(classOrObj, "_is_parameter_node_wrapper", False))


def findChildWidgetForParameter(widget: Any, parameter: str) -> Any:
    """The widget that is bound to a parameter, or None."""
    for one in widget.findChildren(QtWidgets.QWidget):
        if one.property(PARAMETER_NAME) == parameter:
            return one
    return None
