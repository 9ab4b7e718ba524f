"""Visits to try the module on are what they are said to be, and are not half there when they cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib import demo_data
from P2SAMSlicerLib.demo import DEFAULT_SEED
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.propagation_run import RunRequest
from P2SAMSlicerLib.mrml.sample_visits import add_lung_visits, add_phantom_visits
from P2SAMSlicerLib.mrml.segment_nodes import segments_from_node
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.simulation.visit import SimulationOptions, simulate_followup
from P2SAMSlicerLib.volume import Segmentation
from P2SAMSlicerLib.volume_file import write_volume
from small_body import prior_visit

pytestmark = pytest.mark.usefixtures("scene")


def test_the_phantom_is_a_contoured_prior_and_a_followup_of_the_same_body() -> None:
    prior, contours, followup = add_phantom_visits()
    RunRequest(prior, contours, (followup,)).check()
    volume, later = volume_from_node(prior), volume_from_node(followup)
    ((tumour,), warnings) = segments_from_node(contours, prior, volume)
    assert warnings == []
    assert tumour.name == "tumour"
    # a ball of 16 mm about the origin
    assert tumour.mask.sum() * volume.grid.voxel_ml == pytest.approx(4.0 / 3.0 * np.pi * 1.6**3, rel=0.05)
    middle = volume.grid.to_physical(np.argwhere(tumour.mask)[:, ::-1].astype(float)).mean(axis=0)
    np.testing.assert_allclose(middle, 0.0, atol=0.1)
    assert volume.array[tumour.mask].mean() == pytest.approx(90.0, abs=2.0)
    assert later.grid.same_as(volume.grid)
    np.testing.assert_array_equal(later.array, volume.array)


def test_a_lung_ct_that_cannot_be_had_leaves_the_scene_as_it_was(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise InputError("the demonstration's CT cannot be fetched")

    monkeypatch.setattr(demo_data, "lung_ct", absent)
    count = scene.GetNumberOfNodes()
    with pytest.raises(InputError, match="cannot be fetched"):
        add_lung_visits()
    assert scene.GetNumberOfNodes() == count


def test_the_lung_visits_are_the_ct_its_contour_and_a_visit_with_a_smaller_tumour(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    volume, lesion = prior_visit()
    write_volume(volume, tmp_path / "ct.nrrd")
    write_segmentation(Segmentation(volume.grid, (lesion,)), tmp_path / "label.seg.nrrd")
    monkeypatch.setattr(demo_data, "lung_ct", lambda: (tmp_path / "ct.nrrd", tmp_path / "label.seg.nrrd"))
    prior, contours, followup = add_lung_visits()
    RunRequest(prior, contours, (followup,)).check()
    assert [node.GetName() for node in (prior, contours)] == ["Lung prior CT", "Lung prior contours"]
    assert "simulated" in followup.GetName()
    for node in (prior, contours, followup):
        assert demo_data.PROVENANCE in node.GetDescription()
    np.testing.assert_array_equal(volume_from_node(prior).array, volume.array)
    assert volume_from_node(prior).grid.same_as(volume.grid)
    ((tumour,), _) = segments_from_node(contours, prior, volume_from_node(prior))
    np.testing.assert_array_equal(tumour.mask, lesion.mask)
    # Made from this very CT, with less tumour than it has.
    simulated = simulate_followup(volume, lesion.mask, SimulationOptions(change="shrink", seed=DEFAULT_SEED))
    np.testing.assert_array_equal(volume_from_node(followup).array, simulated.followup.array)
    assert volume_from_node(followup).grid.same_as(simulated.followup.grid)
    volumes = lesion.mask.sum() * volume.grid.voxel_ml, simulated.mask.sum() * simulated.followup.grid.voxel_ml
    assert volumes[1] < 0.9 * volumes[0]
