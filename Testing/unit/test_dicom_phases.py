"""Phases of 4D studies: told from what headers say, split where one series holds several, paired between visits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ct_files import make_series, save
from P2SAMSlicerLib.dicom.folder_index import index_folder
from P2SAMSlicerLib.dicom.indexed_series import IndexedSeries, SeriesKind
from P2SAMSlicerLib.dicom.phases import paired_phases, phase_in, with_phases
from P2SAMSlicerLib.dicom.series import read_ct_series
from P2SAMSlicerLib.errors import InputError
from pydicom.dataset import FileDataset


@pytest.mark.parametrize(
    ("description", "phase"),
    [
        ("0%", 0),
        ("CT 30%", 30),
        ("Gated 70.0%", 70),
        ("T50", 50),
        ("4D_Thorax T=90", 90),
        ("Thorax 4D, T=0%", 0),
        ("100%", 0),
        ("Phase 20", 20),
        ("resp 12.5 %", 12.5),
        ("Resp 40% Ex", 30),
        ("Resp 40% In", 70),
        ("0% Ex", 50),
        ("100% In", 0),
        ("", None),
        ("Thorax 5 mm", None),
        ("AVG 0-100%", None),
        ("4D MIP 50%", None),
        ("MinIP T0-T90", None),
        ("Average CT 50%", None),
        ("Thorax ASIR 30%", None),
        ("ASiR-V 50%", None),
        ("Head 120%", None),
        ("venous phase 2", None),
        ("T10-L1", None),
        ("Contrast 30%", None),
        ("120kV T120 mm", None),
    ],
)
def test_a_phase_is_told_from_a_description(description: str, phase: float | None) -> None:
    assert phase_in([description]) == phase


def ct(label: str = "", phase: float | None = None, **fields: Any) -> IndexedSeries:
    plain = IndexedSeries(SeriesKind.CT, "CT", "A", "1.1", f"1.1.{label}", "1.9", "20240101", label, (), phase=phase)
    return replace(plain, **fields)


def grouped(*series: IndexedSeries) -> list[tuple[float | None, str]]:
    stated = {place: phase for place, each in enumerate(series) if (phase := phase_in([each.label])) is not None}
    return [(each.phase, each.phase_group) for each in with_phases(series, stated)]


def test_phases_of_one_study_are_one_group_without_its_average() -> None:
    assert grouped(ct("T0"), ct("T50_ex"), ct("AVG"), ct("T90")) == [(0, "4D 1"), (50, "4D 1"), (None, ""), (90, "4D 1")]


def test_a_percentage_that_stands_alone_is_no_phase() -> None:
    assert grouped(ct("50%"), ct("Thorax")) == [(None, ""), (None, "")]


def test_phases_of_other_patients_studies_and_frames_are_other_groups() -> None:
    others: list[dict[str, Any]] = [{"patient_id": "B"}, {"study_uid": "1.2"}, {"frame_of_reference_uid": "1.8"}]
    for change in others:
        assert grouped(ct("0%"), ct("50%"), ct("0%", **change), ct("50%", **change)) == [
            (0, "4D 1"),
            (50, "4D 1"),
            (0, "4D 2"),
            (50, "4D 2"),
        ]
        assert grouped(ct("0%"), ct("50%", **change)) == [(None, ""), (None, "")]


def test_two_reconstructions_of_one_study_are_told_apart_by_their_words() -> None:
    assert [group for _, group in grouped(ct("soft 0%"), ct("soft 50%"), ct("sharp 0%"), ct("sharp 50%"))] == [
        "4D 1",
        "4D 1",
        "4D 2",
        "4D 2",
    ]
    # Nothing tells these apart, so which belong together is not known.
    assert {group for _, group in grouped(ct("0%"), ct("50%"), ct("0%"), ct("50%"))} == {""}


def pairs(prior: list[float | None], followup: list[float | None]) -> list[tuple[float | None, float | None]]:
    found = paired_phases([ct(phase=each) for each in prior], [ct(phase=each) for each in followup])
    return [(a.phase, b.phase) for a, b in found]


def test_the_same_phases_are_paired_in_order() -> None:
    assert pairs([50, 0, None], [None, 0, 50]) == [(0, 0), (50, 50)]


def test_the_nearest_phase_is_taken_within_five_percent_and_once() -> None:
    assert pairs([0, 12.5, 25], [10, 13, 30]) == [(12.5, 13), (25, 30)]
    assert pairs([20], [26]) == []
    assert pairs([20, 22], [21]) == [(20, 21)]


def test_the_cycle_has_no_end() -> None:
    assert pairs([0], [97]) == [(0, 97)]
    assert pairs([98], [2]) == [(98, 2)]


def test_series_without_phases_are_not_paired() -> None:
    assert pairs([None, None], [None]) == []


def four_d(*phases: Any, tag: str, **tags: Any) -> list[FileDataset]:
    """One series with a stack for each value of a tag; each phase has other values."""
    found = []
    for number, phase in enumerate(phases):
        for each in make_series(**{tag: phase, **tags}):
            each.PixelData = (each.pixel_array + 7 * number).astype(np.uint16).tobytes()
            found.append(each)
    return found


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("TemporalPositionIdentifier", (1, 2, 3)),
        ("AcquisitionNumber", (4, 5)),
        ("ImageComments", ("Gated 0.0%", "Gated 50.0%")),
        ("ContentTime", ("101500", "101501")),
        ("NominalPercentageOfRespiratoryPhase", (0.0, 50.0)),
        ("TriggerTime", (0, 800)),
    ],
)
def test_phases_within_one_series_are_taken_apart_and_each_is_read(tmp_path: Path, tag: str, values: tuple[Any, ...]) -> None:
    index = index_folder(save(tmp_path / "s", four_d(*values, tag=tag)))
    assert len(index.series) == len(values)
    assert {each.series_uid for each in index.series} == {"1.2.3.4"}
    arrays = [read_ct_series(each.paths, "visit_1").volume.array for each in index.series]
    offsets = sorted(int((array - arrays[0]).mean()) for array in arrays)
    assert np.diff(offsets).tolist() == [7] * (len(values) - 1)
    if "Percentage" in tag or "Comments" in tag:
        assert [(each.phase, each.phase_group) for each in index.series] == [(0, "4D 1"), (50, "4D 1")]
    else:
        assert {each.phase for each in index.series} == {None}


def refused_at_the_same_position(folder: Path) -> None:
    (series,) = index_folder(folder).series
    with pytest.raises(InputError, match="same position"):
        read_ct_series(series.paths, "visit_1")


def test_slices_at_the_same_place_that_nothing_tells_apart_stay_together_and_are_refused(tmp_path: Path) -> None:
    refused_at_the_same_position(save(tmp_path / "s", four_d(1, 1, tag="AcquisitionNumber")))


def test_a_phase_that_lacks_a_slice_is_not_split_off(tmp_path: Path) -> None:
    slices = four_d(1, 2, tag="TemporalPositionIdentifier", AcquisitionTime=None)
    del slices[7]
    refused_at_the_same_position(save(tmp_path / "s", slices))


def test_times_that_differ_from_slice_to_slice_split_nothing(tmp_path: Path) -> None:
    slices = four_d(1, 1, tag="AcquisitionNumber")
    for number, each in enumerate(slices):
        each.ContentTime = each.AcquisitionTime = f"1015{number:02d}"
    refused_at_the_same_position(save(tmp_path / "s", slices))


def test_real_slices_at_one_place_are_no_phases(shared_data: Path) -> None:
    refused_at_the_same_position(shared_data / "dicom" / "same_position_slices_ct")


def test_two_visits_are_paired_from_their_files(tmp_path: Path) -> None:
    for visit, (date, stated) in enumerate([("20240101", ("0%", "50%")), ("20240122", ("2%", "T=48"))]):
        for number, words in enumerate((*stated, "AVG 0-90%")):
            tags: dict[str, Any] = {
                "StudyInstanceUID": f"1.5.{visit}",
                "SeriesInstanceUID": f"1.6.{visit}.{number}",
                "AcquisitionDate": date,
            }
            save(tmp_path / f"{visit}{number}", make_series(count=2, SeriesDescription=words, **tags))
    index = index_folder(tmp_path)
    assert len(index.of_kind(SeriesKind.CT)) == 6
    visits = [[each for each in index.series if each.study_uid == f"1.5.{visit}"] for visit in (0, 1)]
    assert [(a.label, b.label) for a, b in paired_phases(*visits)] == [("0%", "2%"), ("50%", "T=48")]
