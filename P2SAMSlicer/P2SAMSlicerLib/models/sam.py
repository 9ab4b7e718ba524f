"""SAM (Kirillov et al. 2023) with ViT-B, ViT-L or ViT-H, from the package ``segment-anything``; MedSAM's ViT-B as well.

MedSAM (Ma et al. 2024) is SAM's ViT-B with other weights, trained with boxes only and with its own preprocessing: its
inference script (``MedSAM_Inference.py``) stretches the image to 1024 x 1024 with a cubic filter and scales its own range to
0..1, without SAM's mean and deviation. PIL's bicubic filter stands for scikit-image's cubic spline here.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import mask_decoder

if TYPE_CHECKING:
    import torch

ARCHITECTURES = ("vit_b", "vit_l", "vit_h")
PACKAGE = "segment_anything"
INSTALL_HINT = "SAM needs a package that is not installed: pip install segment-anything"

#: Images encoded at once on a CPU, where more are not faster, and at most on an accelerator.
ENCODE_CHUNK, ENCODE_CHUNK_ACCELERATED = 1, 8
#: What one image is reckoned to take: its relative positions in the global attention are 16 maps of 4096 x 4096 at most.
ENCODE_BYTES = 3 * 2**29


def check_installed() -> None:
    """Look for the package without importing it (which would import torch).

    :raises ModelError: it is not there.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise ModelError(INSTALL_HINT)


def build_network(architecture: str) -> torch.nn.Module:
    """SAM with random weights.

    :param architecture: one of :data:`ARCHITECTURES`.
    :raises ModelError: the package is missing or does not import, or the architecture is unknown.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"SAM has no architecture '{architecture}'; it has: {', '.join(ARCHITECTURES)}")
    try:
        from segment_anything import sam_model_registry
    except ModuleNotFoundError as error:
        if error.name == PACKAGE:
            raise ModelError(INSTALL_HINT) from None
        raise ModelError(f"SAM cannot be built: Python package '{error.name}' is missing") from None
    except ImportError as error:
        raise ModelError(f"SAM cannot be built: {str(error).splitlines()[0]}") from None
    # No checkpoint here: the package's own loader runs pickled code with older versions of torch.
    network: torch.nn.Module = sam_model_registry[architecture](checkpoint=None)
    return network


def prepare_for_inference(network: Any, device: torch.device) -> None:
    """Make a network with its final weights faster, in place: the same sums, features and logits equal up to rounding.

    :param network: on ``device``; it is left in eval mode.
    """
    del device
    network.eval()
    mask_decoder.prepare_for_inference(network.mask_decoder)
    for block in network.image_encoder.blocks:
        if block.attn.use_rel_pos:
            # On the object, not in its class: other users of the package in this process keep what they have.
            block.attn.forward = partial(_fused_attention, block.attn)


def _fused_attention(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The encoder's attention with its relative positions as an additive mask of PyTorch's fused kernel.

    It is the same sum as in the package, without the tokens x tokens maps that the package writes to memory four times.

    :param attention: the package's attention layer.
    :param tokens: ``(b, h, w, C)``.
    """
    import torch
    from segment_anything.modeling.image_encoder import get_rel_pos

    b, h, w, channels = tokens.shape
    heads = attention.num_heads
    # Each (b, heads, h * w, C / heads).
    q, k, v = attention.qkv(tokens).reshape(b, h * w, 3, heads, channels // heads).permute(2, 0, 3, 1, 4).unbind(0)
    grid = q.reshape(b, heads, h, w, channels // heads)
    along_h = torch.einsum("bnhwc,hkc->bnhwk", grid, get_rel_pos(h, h, attention.rel_pos_h))
    along_w = torch.einsum("bnhwc,wkc->bnhwk", grid, get_rel_pos(w, w, attention.rel_pos_w))
    positions = (along_h[..., :, None] + along_w[..., None, :]).reshape(b, heads, h * w, h * w)
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=positions)
    answer: torch.Tensor = attention.proj(mixed.transpose(1, 2).reshape(b, h, w, channels))
    return answer
