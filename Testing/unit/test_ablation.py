"""The ablation script: its choice is the product's, its folds never measure what they trained on, its tables hold its rows."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.benchmark.cases import CaseData
from P2SAMSlicerLib.candidates import EXPECTED, REGISTERED
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.result import Candidate, SliceResult
from P2SAMSlicerLib.volume import Segment, Volume

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "ablation.py"
PARTS = "parts 2, negatives 1"


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ablation"] = module
    spec.loader.exec_module(module)
    return module


def candidate(origin: str, score: float, filled: int = 10) -> Candidate:
    mask = np.zeros((8, 8), dtype=np.bool_)
    mask.ravel()[:filled] = True
    nothing = np.zeros((0, 2), dtype=np.float32)
    return Candidate(origin, mask, nothing, np.zeros(0, dtype=np.int64), None, 0.0, score, 0.5)


def slice_of(index: int, scores: dict[str, float], filled: int = 10) -> SliceResult:
    candidates = tuple(candidate(origin, score, filled) for origin, score in scores.items())
    return SliceResult(index, float(index), candidates, 0, 0.5)


def chosen(ablation: ModuleType, slices: list[SliceResult], variant: str) -> list[str | None]:
    pick = ablation.choice(slices, ablation.pieces([1, 8])[variant])
    return [None if (found := pick(each)) is None else found.origin for each in slices]


def test_a_piece_that_is_left_out_is_not_chosen_and_the_next_best_is(ablation: ModuleType) -> None:
    scores = {REGISTERED: -2.0, EXPECTED: -3.0, "box x1": -1.5, PARTS: -4.0, "parts 2, negatives 8": -5.0}
    slices = [slice_of(index, scores) for index in range(3)]
    for variant, origin in {
        "everything": PARTS,
        "no candidate of the model": EXPECTED,
        "no parts": EXPECTED,
        "one part at most": EXPECTED,
        "no expected contour": PARTS,
        "candidates of the model alone": PARTS,
        "all numbers of background points": "parts 2, negatives 8",
    }.items():
        assert chosen(ablation, slices, variant) == 3 * [origin], variant


def test_a_slice_of_another_lesion_does_not_take_part_in_the_sequence(ablation: ModuleType) -> None:
    first = [slice_of(index, {REGISTERED: -1.0, EXPECTED: -1.1}) for index in range(2)]
    lone = SliceResult(1, 1.0, (candidate(REGISTERED, -1.2), candidate(EXPECTED, -1.1)), 0, 0.5, lesion=2)
    assert chosen(ablation, [*first, lone], "everything") == [EXPECTED, EXPECTED, REGISTERED]


def test_where_nothing_explains_the_slice_it_stays_empty(ablation: ModuleType) -> None:
    assert chosen(ablation, [slice_of(0, {REGISTERED: 3.0, EXPECTED: 2.0})], "everything") == [None]


@pytest.mark.parametrize("count", [2, 7, 27])
def test_every_visit_is_measured_by_one_fold_and_every_fold_has_some(ablation: ModuleType, count: int) -> None:
    visits = [Path(f"P{number:02d}_shrink") for number in range(count)]
    folds = [ablation.held_out(visits, fold) for fold in range(ablation.FOLDS)]
    assert sorted(visit for fold in folds for visit in fold) == visits
    assert all(folds)


def test_training_names_every_held_out_patient_and_what_is_there_is_not_made_again(
    ablation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(ablation, "run", lambda *words: calls.append(words))
    for name in ("P1", "P2", "P3"):
        (tmp_path / "train" / name).mkdir(parents=True)
    visits = ablation.simulated(tmp_path / "train", tmp_path / "visits")
    assert [visit.name for visit in visits] == ["P1_shrink", "P2_partial", "P3_grow"]
    assert len(calls) == 3
    for visit in visits:
        visit.mkdir(parents=True)
        (visit / "case.json").write_text("{}")
    ablation.simulated(tmp_path / "train", tmp_path / "visits")
    assert len(calls) == 3
    ablation.simulated(tmp_path / "train", tmp_path / "gone", "vanish", 2)
    assert [Path(words[words.index("--out") + 1]).name for words in calls[3:]] == ["P1_vanish", "P2_vanish"]
    del calls[3:]
    ablation.adapted(tmp_path, visits, 0, "float32")
    words = calls[-1]
    assert [words[k + 1] for k, word in enumerate(words) if word == "--hold-out"] == ["P1", "P3"]
    (tmp_path / "fold0.safetensors").touch()
    ablation.adapted(tmp_path, visits, 0, "float32")
    assert len(calls) == 4


def test_a_command_of_the_script_is_one_that_p2sam_has(ablation: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "--help"]) == 0
    options = capsys.readouterr().out
    assert all(word in options for word in ablation.TRAINING if word.startswith("--"))


def row(ablation: ModuleType, patient: str, model: str, result: float) -> dict[str, Any]:
    names = [*ablation.pieces([1, 8]), "no credit for the registered contour", "each slice on its own"]
    names += ["oracle, one kind a lesion", "oracle, best of every slice"]
    for count in (1, 8):
        names += [f"parts {parts}, negatives {count}" for parts in range(1, 6)]
        names += [f"1 to {parts} parts by retrieval, negatives {count}" for parts in range(1, 6)]
    dice = {name: 0.1 * number for number, name in enumerate(names)}
    found = {"visit": f"{patient}_grow", "patient": patient, "change": "grow", "model": model, "outcome": "found"}
    ranked = {"ranked": [[0, 0.9, 0.2], [1, 0.1, 0.9], [2, 0.2, 0.8]]}
    turned = {"ranked without own doubt": [[0, 0.1, 0.2], [1, 0.9, 0.9], [2, 0.5, 0.8]]}
    finish = {
        "registered": [0.6, 20.0],
        "as chosen": [0.5, 9.0],
        "without thin parts": [0.7, 5.0],
        "clinical mode": [result, 4.0],
    }
    return {**found, "registered": 0.6, "result": result, "dice": dice, "finish": finish, **ranked, **turned}


def test_the_report_holds_the_means_and_differences_of_its_rows(ablation: ModuleType) -> None:
    rows = [
        row(ablation, patient, model, value)
        for patient, base, adapted in (("A", 0.70, 0.80), ("B", 0.74, 0.90))
        for model, value in ((ablation.BASE, base), (ablation.ADAPTED, adapted))
    ]
    text = ablation.report(
        json.loads(json.dumps(rows)), ["no lesion found", "flagged", "flagged"], [1, 8], 27, "ablation.py --every 3"
    )
    assert "| clinical mode, lite_medsam | 0.720 | +0.120 |" in text
    assert "| clinical mode, adapted | 0.850 | +0.250 |" in text
    assert "| grow | 2 | 0.600 | 0.720 | 0.850 |" in text
    assert "Made by `ablation.py --every 3`" in text
    assert "2 of 27 simulated second visits of 2 patients" in text
    assert "flagged 2, no lesion found 1" in text
    assert "| without thin parts | 5.0 | 0.700 | +0.200 |" in text
    assert "| clinical mode | 4.0 | 0.850 | +0.350 |" in text
    assert "Review priority, adapted: rank correlation with the slice's error 1.00" in text
    assert "Review priority, adapted without the model's own doubt: rank correlation with the slice's error -1.00" in text


def test_of_the_chosen_candidates_the_thin_parts_go_and_what_was_preferred_to_the_expected_contour_stays(
    ablation: ModuleType,
) -> None:
    grid = Grid((9, 40, 40))
    lesion = np.zeros((9, 40, 40), dtype=np.bool_)
    lesion[1:8, 10:30, 10:30] = True
    tongue = lesion.copy()
    tongue[1:8, 20, 30:38] = True
    volume = Volume(np.zeros((9, 40, 40), dtype=np.float32), grid)
    data = CaseData(volume, Segment("GTV", lesion), volume, lesion)
    nothing = np.zeros((0, 2), dtype=np.float32)

    def seen(index: int) -> SliceResult:
        origins = (REGISTERED, EXPECTED) if index == 4 else (EXPECTED, REGISTERED)
        found = [
            Candidate(origin, tongue[index], nothing, np.zeros(0, dtype=np.int64), None, 0.0, score, 0.5)
            for origin, score in zip(origins, (-90.0, -1.0), strict=True)
        ]
        return SliceResult(index, float(index), tuple(found), 0, 0.5)

    found = ablation.finishing([seen(index) for index in range(1, 8)], data, [1])
    length = 8
    chosen_dice, trimmed_dice = found[ablation.CHOSEN][0], found[ablation.TRIMMED][0]
    assert chosen_dice == pytest.approx(2 * 2800 / (2 * 2800 + 7 * length))
    assert trimmed_dice == pytest.approx(2 * 2800 / (2 * 2800 + length), abs=0.01)
    assert found[ablation.TRIMMED][1] <= found[ablation.CHOSEN][1]
    assert ablation.finishing([], data, [1]) == {}


def test_without_the_models_own_doubt_a_slice_has_the_priority_of_its_other_signals(ablation: ModuleType) -> None:
    doubted = SliceResult(3, 3.0, (), None, 0.7, {ablation.OWN_DOUBT: 1.0, "blurred border": 0.4})
    (without,) = ablation.without_own_doubt([doubted])
    assert without.review_priority == pytest.approx(0.4)
    assert without.index == 3


def test_the_credit_of_the_registered_contour_can_be_taken_back(ablation: ModuleType) -> None:
    scores = {REGISTERED: -1.0 - 0.5 * ablation.REGISTERED_CREDIT, EXPECTED: -1.0}
    slices = [slice_of(0, scores)]
    pick = ablation.choice(slices, ablation.pieces([1])["everything"], credit=0.0)
    assert pick(slices[0]).origin == EXPECTED
    assert chosen(ablation, slices, "everything") == [REGISTERED]
