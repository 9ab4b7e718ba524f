"""CTK's containers and buttons: collapsing hides what they hold."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from host import qt_types, signals
from host.standin import HostProperty, standin


def show_contents(owner: Any, shown: bool) -> None:
    """Hide or show the child widgets; a child that its own code had hidden stays hidden."""
    notes = signals.store(owner)
    children = [c for c in QtCore.QObject.children(owner) if qt_types.isinstance_of(c, QtWidgets.QWidget)]
    if shown:
        for child in notes.pop("hidden", []):
            QtWidgets.QWidget.setVisible(child, True)
    else:
        hidden = [c for c in children if not QtWidgets.QWidget.isHidden(c)]
        notes.setdefault("hidden", []).extend(hidden)
        for child in hidden:
            QtWidgets.QWidget.setVisible(child, False)
    QtWidgets.QWidget.updateGeometry(owner)


def hide_late_child(owner: Any, event: Any) -> None:
    """A widget that is added to a collapsed container is hidden as well."""
    if (
        event.type() == QtCore.QEvent.Type.ChildAdded
        and owner.collapsed
        and qt_types.isinstance_of(event.child(), QtWidgets.QWidget)
    ):
        QtCore.QTimer.singleShot(0, lambda: show_contents(owner, False) if owner.collapsed else None)


@standin("ctk", ("contentsCollapsed(bool)",))
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A header that folds what lies below it."""

    collapsedHeight = HostProperty(10)
    flat = HostProperty(False)
    contentsFrameShape = HostProperty(0)
    contentsFrameShadow = HostProperty(0)
    contentsLineWidth = HostProperty(1)
    contentsMidLineWidth = HostProperty(0)
    buttonTextAlignment = HostProperty(0)
    indicatorAlignment = HostProperty(0)

    def __init__(self, *arguments: Any) -> None:
        text = [a for a in arguments if type(a) is str]
        super().__init__(*[a for a in arguments if type(a) is not str])
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setCheckable(True)
        self.setChecked(True)
        if text:
            self.setText(text[0])
        self.connect("toggled(bool)", self._h_toggled)
        QtWidgets.QWidget.setContentsMargins(self, 0, self._h_header(), 0, 0)

    @property
    def collapsed(self) -> bool:
        """Whether the contents are hidden."""
        return not QtWidgets.QAbstractButton.isChecked(self)

    @collapsed.setter
    def collapsed(self, value: Any) -> None:
        QtWidgets.QAbstractButton.setChecked(self, not value)

    def childEvent(self, event: Any) -> None:
        """Called by Qt."""
        hide_late_child(self, event)

    def hitButton(self, position: Any) -> bool:
        """Only the header is pressed."""
        return bool(position.y() < self._h_header())

    def sizeHint(self) -> Any:
        """Room for the header and, unless collapsed, the contents."""
        layout = QtWidgets.QWidget.layout(self)
        width = QtGui.QFontMetrics(QtWidgets.QWidget.font(self)).horizontalAdvance(QtWidgets.QAbstractButton.text(self)) + 40
        hint = QtCore.QSize(width, self._h_header() + 2)
        return hint if layout is None or self.collapsed else hint.expandedTo(QtWidgets.QLayout.totalSizeHint(layout))

    def minimumSizeHint(self) -> Any:
        """As the size hint."""
        return ctkCollapsibleButton.sizeHint(self)

    def paintEvent(self, _event: Any) -> None:
        """Draw the header as a section of a tool box."""
        painter = QtGui.QPainter(self)
        header = QtCore.QRect(0, 0, QtWidgets.QWidget.width(self), self._h_header())
        palette = QtWidgets.QWidget.palette(self)
        QtGui.QPainter.fillRect(painter, header, QtGui.QPalette.color(palette, QtGui.QPalette.ColorRole.Midlight))
        QtGui.QPainter.setPen(painter, QtGui.QPalette.color(palette, QtGui.QPalette.ColorRole.ButtonText))
        arrow = "▸" if self.collapsed else "▾"
        inner = header.adjusted(8, 0, -8, 0)
        flags = QtCore.Qt.AlignmentFlag.AlignVCenter | QtCore.Qt.AlignmentFlag.AlignLeft | QtCore.Qt.TextFlag.TextShowMnemonic
        QtGui.QPainter.drawText(painter, inner, int(flags), f"{arrow}  {QtWidgets.QAbstractButton.text(self)}")
        QtGui.QPainter.end(painter)

    def _h_header(self) -> int:
        return int(QtGui.QFontMetrics(QtWidgets.QWidget.font(self)).height()) + 10

    def _h_toggled(self, shown: bool) -> None:
        show_contents(self, shown)
        signals.emit(self, "contentsCollapsed(bool)", not shown)


@standin("ctk")
class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group box whose check mark folds it."""

    collapsedHeight = HostProperty(14)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.setCheckable(True)
        self.setChecked(True)
        self.connect("toggled(bool)", lambda shown: show_contents(self, shown))

    @property
    def collapsed(self) -> bool:
        """Whether the contents are hidden."""
        return not QtWidgets.QGroupBox.isChecked(self)

    @collapsed.setter
    def collapsed(self, value: Any) -> None:
        QtWidgets.QGroupBox.setChecked(self, not value)

    def childEvent(self, event: Any) -> None:
        """Called by Qt."""
        hide_late_child(self, event)


@standin("ctk")
class ctkPushButton(QtWidgets.QPushButton):
    """A push button whose text and icon can be aligned."""

    buttonTextAlignment = HostProperty(0)
    iconAlignment = HostProperty(0)
    elideMode = HostProperty(0)


@standin("ctk", ("checkBoxToggled(bool)", "checkStateChanged(Qt::CheckState)"))
class ctkCheckablePushButton(ctkPushButton):
    """A push button with a check box in it."""

    indicatorAlignment = HostProperty(0)
    checkBoxControlsButton = HostProperty(True)
    checkBoxControlsButtonToggleState = HostProperty(True)
    checkBoxUserCheckable = HostProperty(True)
    checkState = HostProperty(0, lambda owner: owner._h_state_changed())

    def _h_state_changed(self) -> None:
        checked = int(self.checkState) != 0
        if self.checkBoxControlsButton and self.checkBoxControlsButtonToggleState:
            self.setCheckable(checked)
        signals.emit(self, "checkBoxToggled(bool)", checked)
        signals.emit(self, "checkStateChanged(Qt::CheckState)", self.checkState)


@standin("ctk")
class ctkMenuButton(QtWidgets.QPushButton):
    """A push button with a menu beside it."""


@standin("ctk")
class ctkExpandButton(QtWidgets.QToolButton):
    """An arrow that opens and closes."""

    mirrorOnExpand = HostProperty(True)
    orientation = HostProperty(1)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.setCheckable(True)
        self._h_arrow(False)
        self.connect("toggled(bool)", self._h_arrow)

    def _h_arrow(self, opened: bool) -> None:
        arrows = QtCore.Qt.ArrowType
        QtWidgets.QToolButton.setArrowType(self, arrows.DownArrow if opened else arrows.RightArrow)


@standin("ctk")
class ctkCheckBox(QtWidgets.QCheckBox):
    """A check box with an icon of its own."""


@standin("ctk")
class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    """A text as high as it needs to be, with details that unfold."""

    disableMouseScroll = HostProperty(False)
    collapsed = HostProperty(True, lambda owner: owner._h_show())
    showDetailsText = HostProperty("Show details...", lambda owner: owner._h_show())
    hideDetailsText = HostProperty("Hide details.", lambda owner: owner._h_show())

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._h_full: str | None = None
        self.connect("anchorClicked(QUrl)", self._h_clicked)

    def setCollapsibleText(self, text: str) -> None:
        """Text of which only the first line shows until it is unfolded."""
        self._h_full = text
        self._h_show()

    setCollapsibleHtml = setCollapsibleText
    setCollapsiblePlainText = setCollapsibleText

    def collapsibleText(self) -> str:
        """The whole text."""
        return self._h_full or ""

    def sizeHint(self) -> Any:
        """As high as the text."""
        document = QtWidgets.QTextEdit.document(self)
        return QtCore.QSize(200, int(QtGui.QTextDocument.size(document).height()) + 4)

    def _h_show(self) -> None:
        full = self._h_full
        if full is None:
            return
        first, _, rest = full.partition("<hr>" if "<hr>" in full else "\n")
        if not rest:
            QtWidgets.QTextEdit.setHtml(self, full)
        elif self.collapsed:
            QtWidgets.QTextEdit.setHtml(self, f'{first} <a href="#show">{self.showDetailsText}</a>')
        else:
            QtWidgets.QTextEdit.setHtml(self, f'{full} <a href="#hide">{self.hideDetailsText}</a>')

    def _h_clicked(self, address: Any) -> None:
        if address.fragment() in ("show", "hide"):
            self.collapsed = address.fragment() == "hide"
