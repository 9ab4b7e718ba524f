"""Visits to try the module on: a real CT with a simulated second visit, and a phantom for the self test."""

from __future__ import annotations

from typing import Any

import numpy as np

from P2SAMSlicerLib import demo_data
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.mrml.segment_masks import write_mask
from P2SAMSlicerLib.mrml.volume_nodes import matrix_from_grid
from P2SAMSlicerLib.packages import check_packages
from P2SAMSlicerLib.volume import BoolArray, Volume

DESCRIPTION = (
    "A lung tumour: the CT of one patient with the tumour's contour, and a simulated second visit on which it has shrunk."
    f" {demo_data.PROVENANCE}."
)


def add_lung_visits() -> list[Any]:
    """Fetch the demonstration's CT (its SHA-256 is checked), simulate a second visit, and add both to the scene.

    :returns: the prior CT's node, its segmentation, and the follow-up CT's node.
    :raises InputError: the CT cannot be had, or is not the file that it should be; or packages are missing.
    """
    check_packages()
    from P2SAMSlicerLib.demo import DEFAULT_SEED, SEGMENT_COLOR, SEGMENT_NAME
    from P2SAMSlicerLib.segmentation_file import read_segmentation
    from P2SAMSlicerLib.simulation.visit import SimulationOptions, simulate_followup
    from P2SAMSlicerLib.volume_file import read_volume

    ct_file, label_file = demo_data.lung_ct()
    prior = read_volume(ct_file)
    mask = read_segmentation(label_file).segments[0].mask
    visit = simulate_followup(prior, mask, SimulationOptions(change="shrink", seed=DEFAULT_SEED))
    node = _add(prior, "Lung prior CT")
    contours = _add_contour(node, mask, SEGMENT_NAME, SEGMENT_COLOR, "Lung prior contours")
    followup = _add(visit.followup, "Lung follow-up CT (simulated)")
    for each in (node, contours, followup):
        each.SetDescription(DESCRIPTION)  # where the data comes from stays with it, also in a saved scene
    return [node, contours, followup]


def add_phantom_visits(slice_mm: float = 4.0) -> tuple[Any, Any, Any]:
    """A body of soft tissue with a ball as tumour, twice.

    :param slice_mm: distance of the slices; a run takes as long as there are slices with tumour.
    :returns: the prior CT's node, its segmentation, and the follow-up CT's node.
    """
    slices = round(64.0 / slice_mm)
    grid = Grid((slices, 48, 48), (2.5, 2.5, slice_mm), (-60.0, -60.0, -slice_mm * (slices - 1) / 2))
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    places = grid.to_physical(np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(float)).reshape(*grid.shape, 3)
    array = np.full(grid.shape, -1000.0)
    body = np.hypot(places[..., 0], 1.2 * places[..., 1]) < 52.0
    array[body] = -90.0
    array[np.hypot(places[..., 0], 1.2 * places[..., 1]) < 46.0] = 40.0
    array[np.hypot(places[..., 0], places[..., 1] - 30.0) < 6.0] = 500.0
    tumour = np.linalg.norm(places, axis=-1) < 16.0
    array[tumour] = 90.0
    array += np.random.default_rng(0).normal(0.0, 8.0, grid.shape)
    values = np.rint(array).astype(np.int16)
    prior = _add(Volume(values, grid, "phantom"), "Phantom prior CT")
    contours = _add_contour(prior, tumour, "tumour", (0.9, 0.2, 0.2), "Phantom prior contours")
    return prior, contours, _add(Volume(values, grid, "phantom"), "Phantom follow-up CT")


def _add(volume: Volume, name: str) -> Any:
    import slicer.util

    return slicer.util.addVolumeFromArray(volume.array, ijkToRAS=matrix_from_grid(volume.grid), name=name)


def _add_contour(volume: Any, mask: BoolArray, name: str, color: tuple[float, float, float], title: str) -> Any:
    import slicer.util

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", title)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    identifier = node.GetSegmentation().AddEmptySegment("", name, color)
    write_mask(mask, node, identifier, volume)
    return node
