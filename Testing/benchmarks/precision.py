"""Contours in half precision against float32: ``python Testing/benchmarks/precision.py --cases DIR [--every N]``.

The follow-up slices of each case are encoded in float32 and in half precision, and prompted with the box of the true contour
(and with the contour as a mask, where the model knows masks). The IoU of the two answers says whether the contour stays the
same. On a CPU half precision is imitated: inputs and outputs of every product of matrices and of every convolution are rounded
to it, and summed in float32, which is what instructions for it do. The table is Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from P2SAMSlicerLib.benchmark.cases import BenchmarkCase, find_cases, read_case
from P2SAMSlicerLib.candidates import bounding_box, mask_prompt
from P2SAMSlicerLib.expected import signed_pixels_mm
from P2SAMSlicerLib.intensity import WINDOWS, to_rgb
from P2SAMSlicerLib.models import load_model
from P2SAMSlicerLib.models.protocol import PromptSet
from P2SAMSlicerLib.region import region_around
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

PIXELS, MARGIN_MM, REACH_MM = 256, 20.0, 12.0
PRECISIONS = ("bfloat16", "float16")
#: Operators that a device computes in half precision under autocast.
PRODUCTS = {"linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "conv2d", "convolution", "scaled_dot_product_attention"}


class Imitated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds what goes into products and comes out of them to a precision."""

    def __init__(self, precision: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = getattr(torch, precision)
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        self.products += 1
        return tree_map(self._rounded, func(*tree_map(self._rounded, args), **(kwargs or {})))

    def _rounded(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            return value.to(self.dtype).to(torch.float32)
        return value


def main(arguments: list[str] | None = None) -> int:
    """Measure all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder of cases, as for p2sam benchmark accuracy")
    parser.add_argument("--every", type=int, default=4, help="take every so many slices of a contour (default: 4)")
    parser.add_argument("--model", action="append", default=[], help="see p2sam models list; may be given again")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    found: dict[tuple[str, str], list[float]] = {}
    for name in chosen.model or ["lite_medsam", "lite_medsam_ct"]:
        model = load_model(name, chosen.device, precision="float32")
        for case in find_cases(chosen.cases):
            print(f"{name}, {case.name}", file=sys.stderr, flush=True)
            images, prompts = _slices(model, case, chosen.every)
            expected = _masks(model, model.encode(images), prompts)
            for precision in PRECISIONS:
                with _half(model, precision):
                    features = model.encode(images)
                found.setdefault((name, precision), []).extend(_ious(expected, _masks(model, features, prompts)))
    print("| model | precision | answers | least IoU with float32 | mean | share of at least 0.99 |")
    print("|---|---|---:|---:|---:|---:|")
    for (name, precision), values in found.items():
        share = np.mean(np.array(values) >= 0.99)
        print(f"| {name} | {precision} | {len(values)} | {min(values):.4f} | {np.mean(values):.4f} | {share:.0%} |")
    return 0


@contextmanager
def _half(model: Any, precision: str) -> Iterator[None]:
    """The encoder in half precision: by the device's instructions, or imitated."""
    if model.device.type == "cuda":
        with torch.autocast("cuda", getattr(torch, precision)):
            yield
        return
    with Imitated(precision) as imitated:
        yield
    assert imitated.products > 50, "the encoder's products were not met"


def _slices(model: Any, case: BenchmarkCase, every: int) -> tuple[list[NDArray[np.uint8]], list[tuple[int, PromptSet]]]:
    """Images of slices with their contour in the middle, and prompts with the image's number."""
    data = read_case(case)
    region = region_around(data.truth, data.followup.grid, MARGIN_MM, PIXELS)
    grid, images, prompts = data.followup.grid, [], []
    for z in np.flatnonzero(data.truth.any(axis=(1, 2)))[::every]:
        contour = region.crop(data.truth[z], grid, outside=0.0) > 0.5
        if not contour.any():
            continue
        images.append(to_rgb(region.crop(data.followup.array[z], grid), WINDOWS["soft tissue"]))
        prompts.append((len(images) - 1, PromptSet(box=bounding_box(contour))))
        if "mask" in model.card.trained_prompts:
            logits = mask_prompt(signed_pixels_mm(contour, region.pixel_mm, REACH_MM))
            prompts.append((len(images) - 1, PromptSet(mask_logits=torch.from_numpy(logits)[None], box=bounding_box(contour))))
    return images, prompts


def _masks(model: Any, features: torch.Tensor, prompts: list[tuple[int, PromptSet]]) -> NDArray[np.bool_]:
    rows = torch.tensor([row for row, _ in prompts], device=features.device)
    decoded = model.decode(features[rows], [prompt for _, prompt in prompts], (PIXELS, PIXELS))
    return np.asarray((model.upscale(decoded.logits, (PIXELS, PIXELS))[:, 0] > 0).cpu().numpy(), dtype=np.bool_)


def _ious(expected: NDArray[np.bool_], found: NDArray[np.bool_]) -> list[float]:
    pairs = zip(expected, found, strict=True)
    return [float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0 for a, b in pairs]


if __name__ == "__main__":
    sys.exit(main())
