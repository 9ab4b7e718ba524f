"""A chart of the volume of every contoured segment against the visits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.record_nodes import record_of
from P2SAMSlicerLib.mrml.result_nodes import PRIOR_ROLE, SOURCE_TAG
from P2SAMSlicerLib.mrml.review_nodes import contour_volume_ml, contours_to_review
from P2SAMSlicerLib.mrml.segment_nodes import tag_of
from P2SAMSlicerLib.mrml.volume_nodes import identity_of

#: Name of the chart, its table and (with the segment's name) its series; a new chart takes the place of the one before.
CHART_NAME = "Volumes by visit"
#: Attribute of the chart's nodes: a person's own table may have any name.
CHART_ATTRIBUTE = "P2SAMSlicer.chart"
#: Columns of the table beside those of the segments, which may have any name but these.
VISIT_COLUMN, NAME_COLUMN = "P2SAMSlicer visit", "P2SAMSlicer visit name"


def volumes_by_visit(results: Sequence[Any]) -> dict[str, list[float | None]]:
    """Volume in ml of each segment, by its name, on the prior and then on each follow-up as it is contoured now.

    :param results: segmentation nodes of results that stem from the same prior, in the order of the visits.
    :returns: None where a visit has no contour of the segment.
    """
    found: dict[str, list[float | None]] = {}
    for number, node in enumerate(results, start=1):
        before = _prior_volumes(node)
        for identifier in contours_to_review(node):
            name = tag_of(node.GetSegmentation().GetSegment(identifier), SOURCE_TAG) or ""
            volumes = found.setdefault(name, [None] * (len(results) + 1))
            volumes[0] = before.get(name, volumes[0])
            volumes[number] = contour_volume_ml(node, identifier)
    return found


def _prior_volumes(node: Any) -> dict[str, float]:
    """Volume in ml of each segment on the prior, as far as the record of a result can be read."""
    try:
        record = record_of(node)
    except InputError:
        return {}  # a damaged record takes the figures of the prior away, not those of the contours
    entries = [] if record is None else record.summary["segments"]
    return {each["segment"]: each["prior_volume_ml"] for each in entries if each.get("prior_volume_ml") is not None}


def results_by_visit(results: Sequence[Any], like: Any) -> list[Any]:
    """Those results that stem from the same prior as one of them: by study date where it is known, then as the CTs were loaded.

    :param results: segmentation nodes; one may be there several times.
    """
    import slicer.util

    loaded = [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
    prior = like.GetNodeReferenceID(PRIOR_ROLE)
    same = {node.GetID(): node for node in results if node.GetNodeReferenceID(PRIOR_ROLE) == prior}

    def place(node: Any) -> tuple[str, int]:
        volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        return identity_of(volume).acquired or "", loaded.index(volume.GetID())

    return sorted(same.values(), key=place)


def make_chart(results: Sequence[Any]) -> Any:
    """A ``vtkMRMLPlotChartNode`` of :func:`volumes_by_visit`, shown by the application's plot view.

    :param results: see there; not empty.
    """
    import slicer
    import vtk

    volumes = volumes_by_visit(results)
    for node in _earlier():
        slicer.mrmlScene.RemoveNode(node)
    table = _new("vtkMRMLTableNode", CHART_NAME)
    labels, number = vtk.vtkStringArray(), vtk.vtkFloatArray()
    labels.SetName(NAME_COLUMN)
    number.SetName(VISIT_COLUMN)
    for position, name in enumerate([_prior_name(results[0]), *(_visit_name(node) for node in results)]):
        labels.InsertNextValue(name)
        number.InsertNextValue(position)
    columns = [labels, number]
    for name, values in volumes.items():
        column = vtk.vtkFloatArray()
        column.SetName(name)
        for value in values:
            column.InsertNextValue(float("nan") if value is None else value)
        columns.append(column)
    for column in columns:
        table.AddColumn(column)
    chart = _new("vtkMRMLPlotChartNode", CHART_NAME)
    chart.SetTitle(CHART_NAME)
    chart.SetXAxisTitle("visit")
    chart.SetYAxisTitle("volume (ml)")
    for name in volumes:
        chart.AddAndObservePlotSeriesNodeID(_series(table, name, results).GetID())
    return chart


def _new(kind: str, name: str) -> Any:
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    node.SetAttribute(CHART_ATTRIBUTE, "1")
    return node


def _series(table: Any, name: str, results: Sequence[Any]) -> Any:
    import slicer

    series = _new("vtkMRMLPlotSeriesNode", f"{CHART_NAME} {name}")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(VISIT_COLUMN)
    series.SetYColumnName(name)
    series.SetLabelColumnName(NAME_COLUMN)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
    series.SetColor(*_colour(name, results))
    return series


def _colour(name: str, results: Sequence[Any]) -> tuple[float, float, float]:
    for node in results:
        for identifier in contours_to_review(node):
            segment = node.GetSegmentation().GetSegment(identifier)
            if tag_of(segment, SOURCE_TAG) == name:
                red, green, blue = segment.GetColor()
                return red, green, blue
    return 0.0, 0.0, 0.0


def _earlier() -> list[Any]:
    import slicer.util

    kinds = ("vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode")
    nodes = [node for kind in kinds for node in slicer.util.getNodesByClass(kind)]
    return [node for node in nodes if node.GetAttribute(CHART_ATTRIBUTE) is not None]


def _prior_name(node: Any) -> str:
    prior = node.GetNodeReference(PRIOR_ROLE)
    volume = None if prior is None else prior.GetNodeReference(prior.GetReferenceImageGeometryReferenceRole())
    return "prior" if volume is None else str(volume.GetName())


def _visit_name(node: Any) -> str:
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    return str(node.GetName() if volume is None else volume.GetName())
