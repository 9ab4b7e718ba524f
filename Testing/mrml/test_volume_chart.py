"""The chart shows what is contoured now, visit by visit, and takes the place of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.record_nodes import RECORD_ROLE, attach_record
from P2SAMSlicerLib.mrml.result_nodes import show_result
from P2SAMSlicerLib.mrml.review_nodes import contours_to_review
from P2SAMSlicerLib.mrml.segment_masks import write_mask
from P2SAMSlicerLib.mrml.segment_nodes import segment_ids
from P2SAMSlicerLib.mrml.volume_chart import NAME_COLUMN, VISIT_COLUMN, make_chart, volumes_by_visit
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.volume import Segment
from scene_content import SPACING, add_segmentation, add_volume, blob, oblique
from small_visits import segment_result, visit_result, without_contour
from vtk.util import numpy_support

pytestmark = pytest.mark.usefixtures("scene")

VOXEL_ML = float(np.prod(SPACING)) / 1000.0


def results(*visits: dict[str, int | None]) -> list[Any]:
    """A result a visit: how many voxels each segment has, or None where no lesion was found."""
    prior = add_volume(oblique(1), name="prior visit")
    names = sorted({name for visit in visits for name in visit})
    contours = add_segmentation(prior, dict.fromkeys(names, blob()))
    for identifier in segment_ids(contours):
        contours.GetSegmentation().GetSegment(identifier).SetColor(0.2, 0.4, 0.6)
    ids = dict(zip(names, segment_ids(contours), strict=True))
    return [result(contours, ids, number, visit) for number, visit in enumerate(visits, start=1)]


def result(contours: Any, ids: dict[str, str], number: int, visit: dict[str, int | None]) -> Any:
    followup = add_volume(oblique(number + 1), name=f"visit {number}")
    grid = volume_from_node(followup).grid
    found = []
    for name, voxels in visit.items():
        segment = Segment(name, blob())
        if voxels is None:
            empty = np.zeros_like(blob())
            found.append(without_contour(segment, Outcome.NO_LESION, "not there", registered_mask=empty))
        else:
            mask = np.zeros_like(blob())
            mask.ravel()[:voxels] = True
            found.append(segment_result(segment, mask=mask, registered_mask=blob(), prior_volume_ml=12.5, slices=()))
    whole = replace(visit_result(*found), grid=grid)
    node = show_result(whole, followup, contours, ids)
    attach_record(node, whole)
    return node


def column(table: Any, name: str) -> Sequence[Any]:
    values = table.GetTable().GetColumnByName(name)
    if name == NAME_COLUMN:
        return [values.GetValue(n) for n in range(values.GetNumberOfValues())]
    return list(numpy_support.vtk_to_numpy(values))


def test_volumes_are_those_of_the_prior_and_of_each_visit_as_it_is_now() -> None:
    first, second = results({"GTV": 40}, {"GTV": 25})
    assert volumes_by_visit([first, second]) == {"GTV": pytest.approx([12.5, 40 * VOXEL_ML, 25 * VOXEL_ML])}
    edited = np.zeros_like(blob())
    edited[0, 0, :3] = True
    (contour,) = contours_to_review(second)
    write_mask(edited, second, contour, second.GetNodeReference(second.GetReferenceImageGeometryReferenceRole()))
    assert volumes_by_visit([first, second])["GTV"][2] == pytest.approx(3 * VOXEL_ML)


def test_a_visit_without_a_contour_and_a_segment_that_came_later_leave_gaps() -> None:
    nodes = results({"GTV": 40, "node": None}, {"GTV": None}, {"GTV": 10, "node": 5})
    found = volumes_by_visit(nodes)
    assert found["GTV"] == [12.5, pytest.approx(40 * VOXEL_ML), None, pytest.approx(10 * VOXEL_ML)]
    assert found["node"] == [12.5, None, None, pytest.approx(5 * VOXEL_ML)]


def test_a_renamed_contour_stays_in_its_segments_line_and_without_a_record_the_prior_is_missing() -> None:
    (node,) = results({"GTV": 40})
    (contour,) = contours_to_review(node)
    node.GetSegmentation().GetSegment(contour).SetName("my tumour")
    assert list(volumes_by_visit([node])) == ["GTV"]
    node.RemoveNodeReferenceIDs(RECORD_ROLE)
    assert volumes_by_visit([node])["GTV"][0] is None


def test_the_chart_has_a_line_a_segment_in_its_colour_with_the_visits_names() -> None:
    nodes = results({"GTV": 40, "visit": 8}, {"GTV": None, "visit": 6})
    chart = make_chart(nodes)
    assert chart.GetNumberOfPlotSeriesNodes() == 2
    by_name = {}
    for number in range(2):
        series = chart.GetNthPlotSeriesNode(number)
        assert series.GetColor() == pytest.approx((0.2, 0.4, 0.6), abs=0.01)
        assert (series.GetXColumnName(), series.GetLabelColumnName()) == (VISIT_COLUMN, NAME_COLUMN)
        table = series.GetTableNode()
        by_name[series.GetYColumnName()] = column(table, series.GetYColumnName())
        assert column(table, NAME_COLUMN) == ["prior visit", "visit 1", "visit 2"]
        assert column(table, VISIT_COLUMN) == [0.0, 1.0, 2.0]
    np.testing.assert_allclose(by_name["GTV"], [12.5, 40 * VOXEL_ML, np.nan], rtol=1e-5)
    np.testing.assert_allclose(by_name["visit"], [12.5, 8 * VOXEL_ML, 6 * VOXEL_ML], rtol=1e-5)


def test_a_second_chart_takes_the_place_of_the_first_and_of_nothing_else(scene: Any) -> None:
    nodes = results({"GTV": 40, "node": 8}, {"GTV": 10})
    own = scene.AddNewNodeByClass("vtkMRMLTableNode", "Volumes by visit of my study")
    first = make_chart(nodes)
    count = scene.GetNumberOfNodes()
    second = make_chart(nodes)
    assert scene.GetNumberOfNodes() == count
    assert not scene.IsNodePresent(first)
    assert scene.IsNodePresent(second)
    assert scene.IsNodePresent(own)
    make_chart(nodes[1:])
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode") == 1


@pytest.mark.parametrize("harm", ["damaged", "without the figure"])
def test_a_record_that_cannot_be_read_takes_the_priors_volume_away_and_not_the_chart(harm: str) -> None:
    import json

    nodes = results({"GTV": 40}, {"GTV": 10})
    for node in nodes:
        text = node.GetNodeReference(RECORD_ROLE)
        content = json.loads(text.GetText())
        del content["summary"]["segments"][0]["prior_volume_ml"]
        text.SetText("{" if harm == "damaged" else json.dumps(content))
    assert volumes_by_visit(nodes) == {"GTV": [None, pytest.approx(40 * VOXEL_ML), pytest.approx(10 * VOXEL_ML)]}
    table = make_chart(nodes).GetNthPlotSeriesNode(0).GetTableNode()
    first, *later = column(table, "GTV")
    assert np.isnan(first)
    assert later == pytest.approx([40 * VOXEL_ML, 10 * VOXEL_ML])


def test_a_followup_that_is_gone_is_told_and_the_chart_that_is_there_stays(scene: Any) -> None:
    nodes = results({"GTV": 40}, {"GTV": 10})
    chart = make_chart(nodes)
    scene.RemoveNode(nodes[1].GetNodeReference(nodes[1].GetReferenceImageGeometryReferenceRole()))
    with pytest.raises(InputError, match="its follow-up volume is no longer in the scene"):
        make_chart(nodes)
    assert scene.IsNodePresent(chart)


def test_without_the_priors_contours_the_first_visit_is_called_prior(scene: Any) -> None:
    (node,) = results({"GTV": 40})
    scene.RemoveNode(scene.GetFirstNodeByName("contours"))
    chart = make_chart([node])
    assert column(chart.GetNthPlotSeriesNode(0).GetTableNode(), NAME_COLUMN) == ["prior", "visit 1"]
