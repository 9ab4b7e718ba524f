"""CTK's combo boxes, paths and message box."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from host import dialogs, signals
from host.ctk_values import row
from host.standin import HostProperty, standin

CHECK_ROLE = QtCore.Qt.ItemDataRole.CheckStateRole


@standin("ctk")
class ctkComboBox(QtWidgets.QComboBox):
    """A combo box with a text for no choice."""

    AlwaysScroll, NeverScroll, ScrollWithFocus, ScrollWithNoVScrollBar = 1, 0, 2, 3
    defaultText = HostProperty("", lambda owner: owner.setPlaceholderText(owner.defaultText))
    forceDefault = HostProperty(False)
    elideMode = HostProperty(0)
    scrollWheelEffect = HostProperty(1)

    @property
    def currentUserDataAsString(self) -> str:
        """The data of the current item."""
        data = QtWidgets.QComboBox.currentData(self)
        return "" if data is None else str(data)

    @currentUserDataAsString.setter
    def currentUserDataAsString(self, text: str) -> None:
        self.setCurrentUserDataAsString(text)

    def setCurrentUserDataAsString(self, text: str) -> None:
        """Choose the item with this data."""
        for index in range(QtWidgets.QComboBox.count(self)):
            if str(QtWidgets.QComboBox.itemData(self, index)) == text:
                QtWidgets.QComboBox.setCurrentIndex(self, index)
                return


@standin("ctk", ("checkedIndexesChanged()",))
class ctkCheckableComboBox(QtWidgets.QComboBox):
    """A combo box whose items can be checked."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        QtWidgets.QComboBox.setModel(self, QtGui.QStandardItemModel(0, 1, self))
        model = QtWidgets.QComboBox.model(self)
        model.connect("dataChanged(QModelIndex,QModelIndex,QList<int>)", lambda _a, _b, roles: self._h_data_changed(roles))
        model.connect("rowsInserted(QModelIndex,int,int)", self._h_inserted)

    def checkState(self, index: Any) -> Any:
        """Whether the item at a model index is checked."""
        state = QtWidgets.QComboBox.model(self).data(index, CHECK_ROLE)
        return QtCore.Qt.CheckState(state) if state is not None else QtCore.Qt.CheckState.Unchecked

    def setCheckState(self, index: Any, state: Any) -> None:
        """Check the item at a model index."""
        QtWidgets.QComboBox.model(self).setData(index, QtCore.Qt.CheckState(int(state)).value, CHECK_ROLE)

    def checkedIndexes(self) -> tuple[Any, ...]:
        """Model indexes of the checked items."""
        return tuple(i for i in self._h_indexes() if self.checkState(i) == QtCore.Qt.CheckState.Checked)

    def allChecked(self) -> bool:
        """Whether every item is checked."""
        return bool(len(self.checkedIndexes()) == QtWidgets.QComboBox.count(self))

    def noneChecked(self) -> bool:
        """Whether no item is checked."""
        return not self.checkedIndexes()

    def checkableModel(self) -> Any:
        """The model of the items."""
        return QtWidgets.QComboBox.model(self)

    def _h_indexes(self) -> list[Any]:
        model = QtWidgets.QComboBox.model(self)
        return [model.index(r, 0) for r in range(QtWidgets.QComboBox.count(self))]

    def _h_inserted(self, _parent: Any, first: int, last: int) -> None:
        model = QtWidgets.QComboBox.model(self)
        for position in range(first, last + 1):
            if model.data(model.index(position, 0), CHECK_ROLE) is None:
                model.setData(model.index(position, 0), QtCore.Qt.CheckState.Unchecked.value, CHECK_ROLE)

    def _h_data_changed(self, roles: Any) -> None:
        if not len(roles) or int(CHECK_ROLE) in [int(r) for r in roles]:
            signals.emit(self, "checkedIndexesChanged()")


@standin("ctk", ("currentPathChanged(QString)", "validInputChanged(bool)"))
class ctkPathLineEdit(QtWidgets.QWidget):
    """A path that can be typed or browsed for."""

    Files, Dirs, Drives, AllDirs, AllEntries = 0x002, 0x001, 0x004, 0x400, 0x007
    NoSymLinks, Readable, Writable, Executable, Hidden, NoDotAndDotDot = 0x008, 0x010, 0x020, 0x040, 0x100, 0x6000
    ShowDirsOnly, DontResolveSymlinks, DontConfirmOverwrite, ReadOnly = 1, 2, 4, 0x20
    label = HostProperty("")
    filters = HostProperty(0)
    options = HostProperty(0)
    settingKey = HostProperty("")
    showBrowseButton = HostProperty(True, lambda owner: owner._h_browse.setVisible(owner.showBrowseButton))
    showHistoryButton = HostProperty(True)
    sizeAdjustPolicy = HostProperty(0)
    minimumContentsLength = HostProperty(0)
    nameFilters = HostProperty(())

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*[a for a in arguments if type(a) is not str][-1:])
        self._h_combo = QtWidgets.QComboBox()
        self._h_combo.setEditable(True)
        self._h_combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._h_browse = QtWidgets.QToolButton()
        self._h_browse.setText("...")
        layout = row(self)
        layout.addWidget(self._h_combo)
        layout.addWidget(self._h_browse)
        self._h_combo.connect("editTextChanged(QString)", lambda text: signals.emit(self, "currentPathChanged(QString)", text))
        self._h_browse.connect("clicked()", self.browse)

    @property
    def currentPath(self) -> str:
        """The path as typed."""
        return str(QtWidgets.QComboBox.currentText(self._h_combo))

    @currentPath.setter
    def currentPath(self, path: Any) -> None:
        self._h_combo.setEditText(str(path))

    def setCurrentPath(self, path: Any) -> None:
        """Assign the path."""
        self.currentPath = path

    def comboBox(self) -> Any:
        """The combo box with the recent paths."""
        return self._h_combo

    def addCurrentPathToHistory(self) -> None:
        """Put the path into the recent ones."""
        if self.currentPath:
            self._h_combo.addItem(self.currentPath)

    def retrieveHistory(self) -> None:
        """Read the recent paths from the settings; the host keeps none."""

    def browse(self) -> None:
        """Ask for a path; in tests the prepared answer is taken."""
        chosen = dialogs.ask("path", self.label, "")
        if chosen:
            self.currentPath = chosen


@standin("ctk", ("directoryChanged(QString)", "directorySelected(QString)"))
class ctkDirectoryButton(QtWidgets.QWidget):
    """A button with a folder on it."""

    ShowDirsOnly, DontResolveSymlinks, DontConfirmOverwrite, ReadOnly = 1, 2, 4, 0x20
    acceptMode = HostProperty(0)
    caption = HostProperty("")
    elideMode = HostProperty(0)
    options = HostProperty(1)
    text = HostProperty("", lambda owner: owner._h_button.setText(owner.text))
    directory = HostProperty(".", lambda owner: owner._h_changed())

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*[a for a in arguments if type(a) is not str][-1:])
        self._h_button = QtWidgets.QPushButton()
        row(self).addWidget(self._h_button)
        self._h_button.connect("clicked()", self.browse)
        self._h_changed()

    def browse(self) -> None:
        """Ask for a folder; in tests the prepared answer is taken."""
        chosen = dialogs.ask("path", self.caption, "")
        if chosen:
            self.directory = chosen
            signals.emit(self, "directorySelected(QString)", self.directory)

    def _h_changed(self) -> None:
        if not self.text:
            self._h_button.setText(self.directory)
        signals.emit(self, "directoryChanged(QString)", self.directory)


@standin("ctk")
class ctkMessageBox(QtWidgets.QMessageBox):
    """A message box that can be switched off for the future."""

    dontShowAgain = HostProperty(False)
    dontShowAgainVisible = HostProperty(False)
    dontShowAgainSettingsKey = HostProperty("")
    dontShowAgainButtonRoles = HostProperty(())

    def setDontShowAgain(self, value: bool) -> None:
        """Assign whether the box is skipped from now on."""
        self.dontShowAgain = value

    def addDontShowAgainButtonRole(self, role: Any) -> None:
        """A role whose button makes the choice permanent."""
        self.dontShowAgainButtonRoles = (*self.dontShowAgainButtonRoles, role)
