"""What is missing in Slicer's Python, and the buttons that add it. Nothing is installed without a click."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer.util
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models.bundle import take_weights
from P2SAMSlicerLib.packages import missing_packages, pin_installed, pip_arguments
from slicer.i18n import tr as _


class PackagesPanel:
    """The section *Missing packages*, which is there only while something is missing.

    :param ui: widgets ``packagesSection``, ``packagesLabel``, ``installButton`` and ``bundleButton``.
    :param changed: called after something was installed.
    """

    def __init__(self, ui: Any, changed: Callable[[], None]) -> None:
        self._ui, self._changed = ui, changed
        ui.installButton.connect("clicked(bool)", lambda _checked=False: self._install(None))
        ui.bundleButton.connect("clicked(bool)", lambda _checked=False: self._install_bundle())
        self.refresh()

    def refresh(self) -> str:
        """Look again.

        :returns: what is missing, in words; empty if nothing is.
        """
        words = missing_packages().in_words()
        self._ui.packagesLabel.text = words
        self._ui.packagesSection.visible = bool(words)
        return words

    def _install_bundle(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self._ui.packagesSection, _("Folder with wheels and weights"))
        if folder:
            self._install(Path(folder))

    def _install(self, bundle: Path | None) -> None:
        try:
            self._add(bundle)
        finally:  # a part of it may be there
            self.refresh()
            self._changed()

    def _add(self, bundle: Path | None) -> None:
        with slicer.util.tryWithErrorDisplay(_("The packages could not be installed."), waitCursor=True):
            missing = missing_packages()
            if missing.slicers_own:
                words = _("{0}: part of Slicer and not there; install Slicer again")
                raise InputError(words.format(", ".join(missing.slicers_own)))
            if missing.pytorch:
                _install_pytorch()
            if missing.requirements:
                with tempfile.TemporaryDirectory() as folder:
                    pins = Path(folder) / "pins.txt"
                    pin_installed(pins)
                    slicer.util.pip_install(pip_arguments(missing.requirements, pins, bundle))
            if bundle is not None:
                take_weights(bundle)


def _install_pytorch() -> None:
    """Ask the PyTorch extension, which knows this computer's GPU and driver."""
    try:
        import PyTorchUtils
    except ImportError as error:
        raise InputError(
            _("PyTorch is missing: install the extension PyTorch with the Extensions Manager, restart Slicer, and click again")
        ) from error
    if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True) is None:
        raise InputError(_("PyTorch was not installed"))
