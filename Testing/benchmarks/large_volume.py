"""Time and memory on a large pair of visits: ``python Testing/benchmarks/large_volume.py [--size SLICES ROWS COLUMNS]``.

The demo's real lung CT is brought to the size (in its plane by interpolation, along the slices by mirrored copies of itself),
and its follow-up is the same, shifted by some millimetres and noisy. The contour is carried with the default model and
options on CPU. Prints the seconds of every stage, the peak memory of the process, and the Dice with the known truth, which
says that the run did what it should and nothing about accuracy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from P2SAMSlicerLib.benchmark.memory import peak_memory_gib
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume

#: Follow-up against prior, voxels along z, y, x; and its noise in HU.
SHIFT = (0, 6, -8)
NOISE_HU = 10.0
SEED = 1


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if the demo's CT cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, nargs=3, default=(200, 512, 512), metavar=("SLICES", "ROWS", "COLUMNS"))
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    arguments = parser.parse_args(argv)
    from P2SAMSlicerLib.demo_data import lung_ct
    from P2SAMSlicerLib.errors import P2SAMError
    from P2SAMSlicerLib.metrics import evaluate
    from P2SAMSlicerLib.models import load_model
    from P2SAMSlicerLib.models.encode_cache import RUN_BYTES, EncodeCache
    from P2SAMSlicerLib.propagation import propagate
    from P2SAMSlicerLib.speed.steps import step_seconds
    from P2SAMSlicerLib.threads import use_threads

    use_threads(arguments.threads)
    try:
        prior, mask = large(*lung_ct(), tuple(arguments.size))
    except P2SAMError as error:
        print(error, file=sys.stderr)
        return 1
    followup, truth = followed(prior, mask)
    model = EncodeCache(load_model(device="cpu"), RUN_BYTES)
    before = peak_memory_gib()
    visit, steps = step_seconds(lambda: propagate(model, prior, [Segment("tumour", mask)], followup))
    (segment,) = visit.segments
    found = segment.mask if segment.mask is not None else segment.registered_mask
    print(f"follow-up of {' x '.join(map(str, arguments.size))} voxels, {arguments.threads} CPU threads")
    for name, value in {**visit.stage_seconds, "all": sum(steps.values())}.items():
        print(f"{name:13} {value:7.1f} s")
    print(f"encoding      {steps['encode']:7.1f} s, within the segmentation: {model.encoded} images")
    peak = peak_memory_gib()
    if before is not None and peak is not None:
        print(f"peak memory   {peak:7.2f} GiB ({before:.2f} GiB before, with both CTs and the model)")
    print(f"outcome: {segment.outcome.value}; Dice with the truth {evaluate(found, truth, followup.grid).volumetric_dice:.2f}")
    return 0


def large(ct: Path, contour: Path, size: tuple[int, ...]) -> tuple[Volume, BoolArray]:
    """The CT and its contour, ``size`` voxels along z, y, x."""
    import SimpleITK as sitk

    images = [sitk.ReadImage(str(ct), sitk.sitkInt16), sitk.ReadImage(str(contour), sitk.sitkUInt8)]
    nx, ny, nz = images[0].GetSize()
    sx, sy, sz = images[0].GetSpacing()
    spacing = (sx * nx / size[2], sy * ny / size[1], sz)
    arrays = []
    for image, interpolator, outside in zip(images, (sitk.sitkLinear, sitk.sitkNearestNeighbor), (-1024, 0), strict=True):
        image.SetOrigin((0.0, 0.0, 0.0))
        image.SetDirection(np.eye(3).ravel().tolist())
        target = (size[2], size[1], nz), sitk.Transform(), interpolator, (0.0, 0.0, 0.0), spacing, image.GetDirection()
        arrays.append(sitk.GetArrayFromImage(sitk.Resample(image, *target, outside)))
    values, mask = arrays
    rows = mirrored(nz, size[0])
    tumour = mask[rows] > 0
    tumour[nz:] = False
    return Volume(values[rows], Grid(tumour.shape, spacing), "prior"), tumour


def mirrored(count: int, wanted: int) -> list[int]:
    """Indices 0 to ``count - 1``, then back, then forth again, ``wanted`` of them."""
    there_and_back = [*range(count), *range(count - 2, 0, -1)] or [0]
    return [there_and_back[number % len(there_and_back)] for number in range(wanted)]


def followed(prior: Volume, mask: BoolArray) -> tuple[Volume, BoolArray]:
    """The follow-up and its truth."""
    values = np.roll(prior.array, SHIFT, axis=(0, 1, 2))
    rng = np.random.default_rng(SEED)
    for plane in values:
        plane += np.rint(rng.normal(0.0, NOISE_HU, plane.shape)).astype(values.dtype)
    return Volume(values, prior.grid, "followup"), np.roll(mask, SHIFT, axis=(0, 1, 2))


if __name__ == "__main__":
    sys.exit(main())
