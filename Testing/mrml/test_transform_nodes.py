"""A person's own transform reaches the engine as the mapping that it needs: from the follow-up's points to the prior's."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from fake_client import FakeClient
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.mrml.propagation_run import PropagationRun, RunRequest
from P2SAMSlicerLib.mrml.transform_nodes import MOST_POINTS, moves, write_transform
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.transform_file import read_transform
from scene_content import add_bent_transform, add_segmentation, add_transform, add_volume, blob, oblique

pytestmark = pytest.mark.usefixtures("scene")

FLIP = np.array([-1.0, -1.0, 1.0])
UNIT = (1.0, 1.0, 1.0)
#: Slicer itself turns a field round to about a tenth of a millimetre.
FIELD_WITHIN_MM = 0.2


def shift(right: float, anterior: float, superior: float) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, 3] = (right, anterior, superior)
    return matrix


def moved(node: Any, ras: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where Slicer shows a point of a node that is put under a transform."""
    import vtk

    to_world = vtk.vtkGeneralTransform()
    node.GetTransformToWorld(to_world)
    return np.array([to_world.TransformPoint(*point) for point in ras.tolist()])


def check(node: Any, tmp_path: Path, within_mm: float = 1e-6) -> None:
    """Each of the prior's points is found again from where the transform shows it on the follow-up."""
    followup = add_volume(oblique(3, (4.0, 4.0, 5.0)))
    grid = volume_from_node(followup).grid
    write_transform(node, [grid], tmp_path / "transform.h5")
    transform = read_transform(tmp_path / "transform.h5").transform
    rng = np.random.default_rng(0)
    inside = grid.to_physical(rng.uniform(0.0, 1.0, (40, 3)) * (np.array(grid.shape[::-1]) - 1.0)) * FLIP
    import vtk

    back = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(back)
    prior = np.array([back.TransformPoint(*point) for point in inside.tolist()])
    on_followup = moved(node, prior) * FLIP
    found = np.array([transform.TransformPoint(point) for point in on_followup.tolist()])
    np.testing.assert_allclose(found, prior * FLIP, atol=within_mm)


def bent(seed: int) -> Any:
    """A smooth field of some millimetres."""
    import slicer
    import vtk
    from vtk.util import numpy_support

    image = vtk.vtkImageData()
    image.SetDimensions(9, 9, 9)
    image.SetSpacing(60.0, 60.0, 60.0)
    image.SetOrigin(-240.0, -240.0, -240.0)
    vectors = np.random.default_rng(seed).normal(0.0, 3.0, (729, 3))
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(vectors, deep=True))
    field = slicer.vtkOrientedGridTransform()
    field.SetDisplacementGridData(image)
    field.SetInterpolationModeToCubic()
    return field


def test_a_known_shift_of_the_prior_to_the_right_is_undone_on_the_way_back(tmp_path: Path) -> None:
    grid = volume_from_node(add_volume(np.eye(4))).grid
    for node, name in ((add_transform(shift(7.0, 0.0, 0.0)), "linear.h5"), (add_bent_transform(7.0), "grid.h5")):
        write_transform(node, [grid], tmp_path / name)
        transform = read_transform(tmp_path / name).transform
        # Right is negative in LPS: what lies 7 mm further right on the follow-up was at 0 on the prior.
        assert transform.TransformPoint((-7.0, -3.0, 2.0)) == pytest.approx((0.0, -3.0, 2.0), abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_linear_transforms_under_parents_are_read_as_slicer_shows_them(tmp_path: Path, seed: int) -> None:
    above = add_transform(oblique(2 * seed, UNIT), add_transform(oblique(2 * seed + 10, UNIT)))
    check(add_transform(oblique(2 * seed + 20, UNIT), above), tmp_path, 1e-4)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("under_parent", [False, True])
def test_fields_given_either_way_and_under_parents_are_read_as_slicer_shows_them(
    tmp_path: Path, inverse: bool, under_parent: bool
) -> None:
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    if inverse:
        node.SetAndObserveTransformFromParent(bent(1))
    else:
        node.SetAndObserveTransformToParent(bent(1))
    if under_parent:
        node.SetAndObserveTransformNodeID(add_transform(oblique(6, UNIT)).GetID())
    check(node, tmp_path, FIELD_WITHIN_MM)


def test_a_linear_transform_under_a_bent_one_is_not_taken_for_linear(tmp_path: Path) -> None:
    import slicer

    above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    above.SetAndObserveTransformToParent(bent(2))
    check(add_transform(oblique(4, UNIT), above), tmp_path, FIELD_WITHIN_MM)


def test_a_field_covers_all_followups_and_stays_small(tmp_path: Path) -> None:
    import SimpleITK as sitk

    grids = [volume_from_node(add_volume(np.diag([90.0, 80.0, 100.0, 1.0]))).grid]
    far = volume_from_node(add_volume(shift(-900.0, 50.0, -700.0) @ np.diag([4.0, 4.0, 4.0, 1.0]))).grid
    write_transform(add_bent_transform(5.0), [*grids, far], tmp_path / "field.h5")
    transform = read_transform(tmp_path / "field.h5").transform
    for grid in (*grids, far):
        for corner in grid.corners():
            # Outside of the field ITK would move nothing.
            assert transform.TransformPoint(corner.tolist()) == pytest.approx(np.add(corner, [5.0, 0.0, 0.0]), abs=1e-3)
    field = sitk.DisplacementFieldTransform(sitk.ReadTransform(str(tmp_path / "field.h5"))).GetDisplacementField()
    assert field.GetNumberOfPixels() < 1.2 * MOST_POINTS


def test_a_transform_that_cannot_be_turned_round_is_refused(tmp_path: Path) -> None:
    flat = add_transform(np.diag([1.0, 1.0, 0.0, 1.0]))
    flat.SetName("flat")
    with pytest.raises(InputError, match="flat: this transform cannot be turned round"):
        write_transform(flat, [volume_from_node(add_volume(np.eye(4))).grid], tmp_path / "transform.h5")


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import SimpleITK as sitk

    monkeypatch.setattr(sitk, "WriteTransform", Mock(side_effect=RuntimeError("H5Dwrite failed")))
    with pytest.raises(OutputError, match="is the disk full"):
        write_transform(add_transform(np.eye(4)), [], tmp_path / "transform.h5")


def test_a_node_under_a_transform_is_found_through_others() -> None:
    outer = add_transform(np.eye(4))
    inner = add_transform(np.eye(4), outer)
    volume = add_volume(np.eye(4), inner)
    assert moves(outer, volume)
    assert moves(inner, volume)
    assert not moves(add_transform(np.eye(4)), volume)
    assert not moves(inner, outer)


@pytest.mark.parametrize("grid", [False, True])
def test_a_run_hands_its_transform_over_as_the_registration(grid: bool) -> None:
    prior, followup = add_volume(oblique(1), name="prior"), add_volume(oblique(2), name="visit")
    parent = add_transform(shift(0.0, 20.0, 0.0))
    node = add_bent_transform(4.0) if grid else add_transform(shift(4.0, 0.0, 0.0))
    node.SetAndObserveTransformNodeID(parent.GetID())
    client = FakeClient()
    request = RunRequest(prior, add_segmentation(prior, {"GTV": blob()}), (followup,), transform=node)
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    options = client.request.job.options
    assert options.registration == "file"
    options.check()
    transform = read_transform(options.transform_file).transform
    here = volume_from_node(followup).grid.to_physical(np.array([[4.0, 4.0, 4.0]]))[0]
    # The prior was moved 4 mm to the right and 20 mm forward: back is left and posterior, both positive in LPS.
    assert transform.TransformPoint(here.tolist()) == pytest.approx(np.add(here, [4.0, 20.0, 0.0]), abs=1e-3)
    run.cancel()
    assert not options.transform_file.exists()
