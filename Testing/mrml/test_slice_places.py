"""Slices are found in the world, and it is told which one a view shows, however the volume is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from scene_content import add_transform, add_volume, axis_orders, blob, oblique

pytestmark = pytest.mark.usefixtures("scene")


def view_on(places: SlicePlaces, index: int, turned_deg: float = 0.0) -> Any:
    """A slice view that cuts along the acquired slices through one of them, away from its middle."""
    import slicer
    import vtk
    from scipy.spatial.transform import Rotation

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    normal = np.diag([-1.0, -1.0, 1.0]) @ places.grid.direction_matrix.T[::-1][places.axis]
    across = np.cross(normal, [0.3, 0.5, 0.8])
    across /= np.linalg.norm(across)
    normal = Rotation.from_rotvec(np.radians(turned_deg) * across).apply(normal)
    nearest = min(max(index, 0), places.count - 1)
    along = np.diag([-1.0, -1.0, 1.0]) @ places.grid.direction_matrix.T[::-1][places.axis]
    centre = np.asarray(places.centre(nearest)) + (index - nearest) * places.spacing_mm * along + 40.0 * across
    matrix = vtk.vtkMatrix4x4()
    for row in range(3):
        for column, axis in enumerate((across, np.cross(normal, across), normal)):
            matrix.SetElement(row, column, axis[row])
        matrix.SetElement(row, 3, centre[row])
    node.GetSliceToRAS().DeepCopy(matrix)
    return node


def test_in_all_48_axis_orders_a_slice_is_found_where_it_lies(scene: Any) -> None:
    for matrix in axis_orders():
        places = SlicePlaces.of(add_volume(matrix))
        for index in (0, places.count // 2, places.count - 1):
            assert places.index_at(places.centre(index)) == index
            assert places.shown_in(view_on(places, index)) == index
        scene.Clear(False)


@pytest.mark.parametrize("seed", range(4))
def test_oblique_volumes_under_turned_parents_are_found_too(seed: int) -> None:
    volume = add_volume(oblique(seed), add_transform(oblique(seed + 40, (1.0, 1.0, 1.0))))
    places = SlicePlaces.of(volume)
    for index in range(places.count):
        assert places.shown_in(view_on(places, index)) == index


def test_a_view_that_cuts_across_the_slices_shows_none_of_them() -> None:
    places = SlicePlaces.of(add_volume(oblique(3)))
    assert places.shown_in(view_on(places, 2, turned_deg=3.0)) == 2
    assert places.shown_in(view_on(places, 2, turned_deg=8.0)) is None
    assert places.shown_in(view_on(places, 2, turned_deg=90.0)) is None


def test_a_view_beyond_the_last_slice_shows_none() -> None:
    places = SlicePlaces.of(add_volume(np.diag([1.0, 1.0, 4.0, 1.0])))
    for beyond in (-1, places.count):
        assert places.shown_in(view_on(places, beyond)) is None


@pytest.mark.parametrize("index", [-1, -8, 8, 1000])
def test_a_slice_that_is_not_there_is_refused_and_not_counted_from_the_other_end(index: int) -> None:
    places = SlicePlaces.of(add_volume(np.diag([1.0, 1.0, 4.0, 1.0])))
    for mask in (None, blob()):
        with pytest.raises(InputError, match=f"there is no slice {index}: the volume has 8"):
            places.centre(index, mask)


def test_the_middle_of_what_a_contour_shows_is_in_it() -> None:
    volume = add_volume(np.diag([-1.0, -1.0, 4.0, 1.0]))
    places = SlicePlaces.of(volume)
    assert (places.axis, places.spacing_mm) == (0, 4.0)
    right, anterior, superior = places.centre(3, blob())
    rows, columns = np.nonzero(blob()[3])
    assert (right, anterior, superior) == pytest.approx((-columns.mean(), -rows.mean(), 12.0))
    rows, columns = np.nonzero(blob().any(axis=0))
    assert places.centre(0, blob()) == pytest.approx((-columns.mean(), -rows.mean(), 0.0))
    assert places.centre(0, np.zeros_like(blob())) == places.centre(0)
