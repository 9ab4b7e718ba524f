"""CTK's widgets for numbers: spin box, slider with a spin box, range."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtWidgets

from host import signals
from host.standin import HostProperty, setter, standin

SLIDER_STEPS = 1000


def row(owner: Any) -> Any:
    """An empty row that fills a widget."""
    layout = QtWidgets.QHBoxLayout(owner)
    layout.setContentsMargins(0, 0, 0, 0)
    return layout


def fit(spin: Any, owner: Any) -> None:
    """Give Qt's spin box the limits and the look of the widget that holds it."""
    spin.setDecimals(owner.decimals)
    spin.setRange(owner.minimum, owner.maximum)
    spin.setSingleStep(owner.singleStep)
    spin.setPrefix(owner.prefix)
    spin.setSuffix(owner.suffix)


@standin("ctk", ("valueChanged(double)", "decimalsChanged(int)", "editingFinished()"))
class ctkDoubleSpinBox(QtWidgets.QWidget):
    """A spin box; other than Qt's it is no QDoubleSpinBox but holds one."""

    SetAlways, SetIfDifferent = 0, 1
    SizeHintByMinMax, SizeHintByValue = 0, 1
    FixedDecimals, DecimalsByShortcuts, DecimalsByKey, DecimalsByValue = 0, 1, 2, 4
    decimals = HostProperty(2, lambda owner: owner._h_apply())
    minimum = HostProperty(0.0, lambda owner: owner._h_apply())
    maximum = HostProperty(99.99, lambda owner: owner._h_apply())
    singleStep = HostProperty(1.0, lambda owner: owner._h_apply())
    prefix = HostProperty("", lambda owner: owner._h_apply())
    suffix = HostProperty("", lambda owner: owner._h_apply())
    readOnly = HostProperty(False, lambda owner: owner._h_apply())
    frame = HostProperty(True)
    alignment = HostProperty(1)
    decimalsOption = HostProperty(0)
    setMode = HostProperty(1)
    invertedControls = HostProperty(False)
    sizeHintPolicy = HostProperty(0)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_spin = QtWidgets.QDoubleSpinBox()
        row(self).addWidget(self._h_spin)
        self._h_apply()
        self._h_spin.connect("valueChanged(double)", lambda value: signals.emit(self, "valueChanged(double)", value))
        self._h_spin.connect("editingFinished()", lambda: signals.emit(self, "editingFinished()"))

    @property
    def value(self) -> float:
        """The number."""
        return float(QtWidgets.QDoubleSpinBox.value(self._h_spin))

    @value.setter
    def value(self, number: Any) -> None:
        self._h_spin.setValue(float(number))

    @property
    def cleanText(self) -> str:
        """The number as it is shown, without prefix and suffix."""
        return str(QtWidgets.QDoubleSpinBox.cleanText(self._h_spin))

    setValue = setter("value")
    setValueAlways = setValue
    setValueIfDifferent = setValue

    setDecimals = setter("decimals")
    setReadOnly = setter("readOnly")

    def stepUp(self) -> None:
        """One step more."""
        QtWidgets.QDoubleSpinBox.stepUp(self._h_spin)

    def stepDown(self) -> None:
        """One step less."""
        QtWidgets.QDoubleSpinBox.stepDown(self._h_spin)

    def _h_apply(self) -> None:
        spin = getattr(self, "_h_spin", None)
        if spin is not None:
            fit(spin, self)
            spin.setReadOnly(self.readOnly)


@standin("ctk", ("valueChanged(double)", "valueIsChanging(double)", "decimalsChanged(int)"))
class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with a spin box."""

    NoSynchronize, SynchronizeWidth, SynchronizeDecimals = 0, 1, 2
    decimals = HostProperty(2, lambda owner: owner._h_apply())
    minimum = HostProperty(0.0, lambda owner: owner._h_apply())
    maximum = HostProperty(99.0, lambda owner: owner._h_apply())
    singleStep = HostProperty(1.0, lambda owner: owner._h_apply())
    pageStep = HostProperty(10.0)
    prefix = HostProperty("", lambda owner: owner._h_apply())
    suffix = HostProperty("", lambda owner: owner._h_apply())
    tickInterval = HostProperty(0.0)
    tickPosition = HostProperty(0)
    synchronizeSiblings = HostProperty(0)
    spinBoxAlignment = HostProperty(0)
    tracking = HostProperty(True)
    spinBoxVisible = HostProperty(True, lambda owner: owner._h_spin.setVisible(owner.spinBoxVisible))
    popupSlider = HostProperty(False)
    invertedAppearance = HostProperty(False)
    invertedControls = HostProperty(False)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._h_slider.setRange(0, SLIDER_STEPS)
        self._h_spin = QtWidgets.QDoubleSpinBox()
        layout = row(self)
        layout.addWidget(self._h_slider)
        layout.addWidget(self._h_spin)
        self._h_busy = False
        self._h_apply()
        self._h_spin.connect("valueChanged(double)", self._h_changed)
        self._h_slider.connect("valueChanged(int)", self._h_slid)

    @property
    def value(self) -> float:
        """The number."""
        return float(QtWidgets.QDoubleSpinBox.value(self._h_spin))

    @value.setter
    def value(self, number: Any) -> None:
        self._h_spin.setValue(float(number))

    setValue = setter("value")
    setDecimals = setter("decimals")

    setSpinBoxVisible = setter("spinBoxVisible")

    def reset(self) -> None:
        """Back to the smallest number."""
        self.value = self.minimum

    def _h_apply(self) -> None:
        if getattr(self, "_h_busy", None) is not None:
            fit(self._h_spin, self)
            self._h_place()

    def _h_place(self) -> None:
        width = self.maximum - self.minimum
        self._h_busy = True
        self._h_slider.setValue(round((self.value - self.minimum) / width * SLIDER_STEPS) if width > 0 else 0)
        self._h_busy = False

    def _h_changed(self, number: float) -> None:
        self._h_place()
        signals.emit(self, "valueIsChanging(double)", number)
        signals.emit(self, "valueChanged(double)", number)

    def _h_slid(self, position: int) -> None:
        if not self._h_busy:
            self.value = self.minimum + (self.maximum - self.minimum) * position / SLIDER_STEPS


@standin("ctk", ("valuesChanged(double,double)", "minimumValueChanged(double)", "maximumValueChanged(double)"))
class ctkRangeWidget(QtWidgets.QWidget):
    """Two numbers, the first not above the second."""

    decimals = HostProperty(2, lambda owner: owner._h_apply())
    minimum = HostProperty(0.0, lambda owner: owner._h_apply())
    maximum = HostProperty(99.0, lambda owner: owner._h_apply())
    singleStep = HostProperty(1.0, lambda owner: owner._h_apply())
    prefix = HostProperty("", lambda owner: owner._h_apply())
    suffix = HostProperty("", lambda owner: owner._h_apply())
    tickInterval = HostProperty(0.0)
    tracking = HostProperty(True)
    symmetricMoves = HostProperty(False)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_spins = (QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox())
        layout = row(self)
        for spin in self._h_spins:
            layout.addWidget(spin)
        self._h_apply()
        self._h_spins[1].setValue(self.maximum)
        for spin in self._h_spins:
            spin.connect("valueChanged(double)", lambda _value: self._h_changed())

    @property
    def minimumValue(self) -> float:
        """The lower number."""
        return float(QtWidgets.QDoubleSpinBox.value(self._h_spins[0]))

    @minimumValue.setter
    def minimumValue(self, number: Any) -> None:
        self._h_spins[0].setValue(min(float(number), self.maximumValue))

    @property
    def maximumValue(self) -> float:
        """The upper number."""
        return float(QtWidgets.QDoubleSpinBox.value(self._h_spins[1]))

    @maximumValue.setter
    def maximumValue(self, number: Any) -> None:
        self._h_spins[1].setValue(max(float(number), self.minimumValue))

    def setMinimumValue(self, number: float) -> None:
        """Assign the lower number."""
        self.minimumValue = number

    def setMaximumValue(self, number: float) -> None:
        """Assign the upper number."""
        self.maximumValue = number

    def setValues(self, lower: float, upper: float) -> None:
        """Assign both numbers."""
        self._h_spins[1].setValue(upper)
        self._h_spins[0].setValue(lower)

    def setRange(self, lower: float, upper: float) -> None:
        """Assign the limits."""
        self.minimum, self.maximum = lower, upper

    setDecimals = setter("decimals")

    def _h_apply(self) -> None:
        for spin in getattr(self, "_h_spins", ()):
            fit(spin, self)

    def _h_changed(self) -> None:
        signals.emit(self, "minimumValueChanged(double)", self.minimumValue)
        signals.emit(self, "maximumValueChanged(double)", self.maximumValue)
        signals.emit(self, "valuesChanged(double,double)", self.minimumValue, self.maximumValue)
