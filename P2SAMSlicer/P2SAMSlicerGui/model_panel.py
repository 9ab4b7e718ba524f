"""Choosing a model, and its weights on this computer: fetch, check, use a file of one's own, remove."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util
from P2SAMSlicerLib.models import store
from P2SAMSlicerLib.models.background_download import BackgroundDownload
from P2SAMSlicerLib.models.bundle import take_weights
from P2SAMSlicerLib.models.catalogue import catalogue, default_model
from P2SAMSlicerLib.packages import missing_packages
from slicer.i18n import tr as _

POLL_MS = 200
#: Setting in which the file of weights is kept that was chosen last on this computer: a scene may name another one.
WEIGHTS_SETTING = "P2SAMSlicer/WeightsFile"


class ModelPanel:
    """The model's part of *Advanced*.

    :param ui: its widgets.
    :param parameters: gives the parameter node, which keeps the choice with the scene, or None while there is none.
    :param changed: called when another model or file was chosen, or weights came or went.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any], changed: Callable[[], None]) -> None:
        self._ui, self._parameters, self._changed = ui, parameters, changed
        self._checkpoint: Path | None = None
        # What a loaded scene asks for and this version does not know; empty if there is no such thing.
        self._unknown = ""
        self._taking = False
        self._download: BackgroundDownload | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)
        self._ids = [entry.id for entry in catalogue()]
        for entry in catalogue():
            ui.modelSelector.addItem(entry.title)
        ui.modelSelector.setCurrentIndex(self._ids.index(default_model()))
        ui.modelSelector.connect("currentIndexChanged(int)", self._on_model)
        for button, action in (
            (ui.downloadButton, self._on_download),
            (ui.verifyButton, self._on_verify),
            (ui.checkpointButton, self._on_checkpoint),
            (ui.weightsFolderButton, self._on_weights_folder),
            (ui.modelFolderButton, self._on_folder),
            (ui.clearModelButton, self._on_clear),
        ):
            button.connect("clicked(bool)", lambda _checked=False, action=action: action())
        self.refresh()

    @property
    def model(self) -> str:
        """Id of the chosen model."""
        return self._unknown or self._ids[int(self._ui.modelSelector.currentIndex)]

    @property
    def checkpoint(self) -> Path | None:
        """Weights file of the person's own choice, or None."""
        return self._checkpoint

    @property
    def own_word(self) -> bool:
        """Whether the file of weights is one that a person chose on this computer, and is taken at that person's word."""
        return self._checkpoint is not None and _chosen_here(self._checkpoint)

    @property
    def lacking(self) -> str:
        """What is missing to run the model, in words; empty if nothing is."""
        if self._unknown:
            return str(_("the scene asks for the model {0}, which is not known here: choose one (section Advanced)")).format(
                self._unknown
            )
        if self._checkpoint is not None and not self._checkpoint.is_file():
            return str(_("{0}: this file of weights is no longer there: choose it again, or Clear (section Advanced)")).format(
                self._checkpoint.name
            )
        if self._checkpoint is not None and not self.own_word:
            return str(_("{0}: the scene names this file of weights: choose it again, or Clear (section Advanced)")).format(
                self._checkpoint.name
            )
        if self._checkpoint is not None or not _packages_are_there() or store.find(self.model) is not None:
            return ""  # missing packages are told before missing weights
        return str(_("{0}: its weights are not on this computer (section Advanced)").format(self.model))

    def take(self, parameters: Any) -> None:
        """Show the choice that the parameter node holds, for example that of a loaded scene."""
        wanted = parameters.model or default_model()
        checkpoint = Path(parameters.weightsFile) if parameters.weightsFile else None
        if (wanted, checkpoint) == (self.model, self._checkpoint):
            return
        unknown = "" if wanted in self._ids else wanted
        self._checkpoint, self._unknown = checkpoint, unknown
        self._taking = True
        self._ui.modelSelector.setCurrentIndex(-1 if unknown else self._ids.index(wanted))
        self._taking = False
        self.refresh()

    def refresh(self) -> None:
        """Show where the chosen model's weights are."""
        buttons = ("downloadButton", "verifyButton", "checkpointButton", "modelFolderButton", "clearModelButton")
        known = _packages_are_there() and not self._unknown
        for name in (*buttons, "weightsFolderButton"):
            getattr(self._ui, name).enabled = known
        if self._unknown:
            self._ui.modelLabel.text = self.lacking
            return
        if not known:
            self._ui.modelLabel.text = _("its weights can be looked for when the missing packages are there")
            return
        entry = next(each for each in store.list_models() if each.entry.id == self.model)
        if self._download is not None and self._download.running:
            words = _("fetching {0}: {1} of {2} MB").format(
                self._download.model, self._download.done // 1_000_000, self._download.total // 1_000_000
            )
        elif self._checkpoint is not None and self.lacking:
            words = self.lacking
        elif self._checkpoint is not None:
            words = _("file of your own: {0}; nothing is known of its accuracy").format(self._checkpoint.name)
        elif entry.path is None:
            words = _("not on this computer")
        else:
            words = _("on this computer ({0}), {1} MB").format(entry.origin, entry.bytes // 1_000_000)
        self._ui.modelLabel.text = words
        busy = self._download is not None
        self._ui.downloadButton.text = _("Stop") if busy else _("Download")
        self._ui.downloadButton.enabled = busy or (entry.path is None and entry.entry.url is not None)
        self._ui.verifyButton.enabled = entry.path is not None
        self._ui.clearModelButton.enabled = not busy and (entry.origin == "downloaded" or self._checkpoint is not None)

    def close(self) -> None:
        """Stop what runs."""
        self._timer.stop()
        if self._download is not None:
            self._download.cancel()

    def _on_model(self, index: int) -> None:
        if not self._taking and index >= 0:
            self._choose(None)

    def _choose(self, checkpoint: Path | None) -> None:
        """The person chose the model that is shown, with this file of weights or its own ones."""
        self._checkpoint, self._unknown = checkpoint, ""
        parameters = self._parameters()
        if parameters is not None:
            with slicer.util.NodeModify(parameters):
                parameters.model = self.model
                parameters.weightsFile = "" if checkpoint is None else str(checkpoint)
        self.refresh()
        self._changed()

    def _on_download(self) -> None:
        if self._download is not None:
            self._download.cancel()
            return
        self._download = BackgroundDownload(self.model)
        self._timer.start()
        self.refresh()

    def _poll(self) -> None:
        download = self._download
        if download is not None and not download.running:
            self._timer.stop()
            self._download = None
            if download.error and download.error != "cancelled":
                slicer.util.errorDisplay(download.error)
            self._changed()
        self.refresh()

    def _on_verify(self) -> None:
        with slicer.util.tryWithErrorDisplay(_("The weights are not what they should be."), waitCursor=True):
            found = store.verify(self.model)
            known = _("the one on record") if found.known else _("no hash is on record to compare with")
            slicer.util.infoDisplay(f"SHA-256 {found.sha256}: {known}")

    def _on_checkpoint(self) -> None:
        names = _("Weights (*.pth *.pt *.safetensors)")
        chosen = qt.QFileDialog.getOpenFileName(self._ui.checkpointButton, _("Weights for this model"), "", names)
        if chosen:
            slicer.app.settings().setValue(WEIGHTS_SETTING, str(Path(chosen)))
            self._choose(Path(chosen))

    def _on_weights_folder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self._ui.weightsFolderButton, _("Folder with weights"))
        if not folder:
            return
        with slicer.util.tryWithErrorDisplay(_("The weights could not be taken."), waitCursor=True):
            try:
                taken = take_weights(Path(folder))
            finally:  # some of them may be there
                self.refresh()
                self._changed()
            if taken:
                slicer.util.infoDisplay(_("now on this computer: {0}").format(", ".join(taken)))
            else:
                slicer.util.infoDisplay(_("the folder holds no weights that are missing here"))

    def _on_folder(self) -> None:
        with slicer.util.tryWithErrorDisplay(_("The folder cannot be opened.")):
            folder = store.model_dir()
            folder.mkdir(parents=True, exist_ok=True)
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))

    def _on_clear(self) -> None:
        with slicer.util.tryWithErrorDisplay(_("The weights could not be removed.")):
            if self._checkpoint is not None:
                self._choose(None)
                return
            question = _("Remove the downloaded weights of {0} from this computer?").format(self.model)
            if not slicer.util.confirmOkCancelDisplay(question):
                return
            store.remove(self.model)
            self.refresh()
            self._changed()


def _chosen_here(checkpoint: Path) -> bool:
    """Whether a person chose the file here; a scene of somebody else's may name any."""
    return str(slicer.util.settingsValue(WEIGHTS_SETTING, "")) == str(checkpoint)


def _packages_are_there() -> bool:
    """Whether the packages are there that know where weights are kept and fetch them."""
    return not missing_packages().requirements
