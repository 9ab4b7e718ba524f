"""Training data: which CTs are found and who validates; slices and contours as clinical mode sees them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from annotated_cases import GRID, lesion, write_pair, write_patients
from P2SAMSlicerLib.adaptation import examples as examples_module
from P2SAMSlicerLib.adaptation.annotated_ct import PAIRS, AnnotatedCT, find_annotated_cts, split_by_patient
from P2SAMSlicerLib.adaptation.augmentation import augmented
from P2SAMSlicerLib.adaptation.examples import PLACEMENTS, Example, examples_of
from P2SAMSlicerLib.adaptation.surroundings import in_lung
from P2SAMSlicerLib.clinical import BEYOND_ENDS_MM, REGION_PIXELS
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.intensity import WINDOWS, to_rgb
from P2SAMSlicerLib.region import region_around
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.simulation.visit import HELD_OUT_FILLS, TRAINING_FILLS
from P2SAMSlicerLib.volume import Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import write_volume
from scipy import ndimage
from small_body import body, dice, stored

MARGIN_MM = 25.0


@pytest.fixture(autouse=True)
def _no_lung(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other placements keep the CT's own surroundings, unless a test says otherwise."""
    monkeypatch.setattr(examples_module, "IN_LUNG", 0.0)


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def annotated(folder: Path) -> AnnotatedCT:
    (found,) = find_annotated_cts(folder)
    return found


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        find_annotated_cts(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("ct", "contour"), PAIRS)
@pytest.mark.parametrize("endings", [(".nii.gz", ".nii.gz"), (".nrrd", ".seg.nrrd"), (".mha", ".nii"), ("", ".nrrd")])
def test_a_ct_and_its_contour_are_found_by_every_pair_of_names(
    ct: str, contour: str, endings: tuple[str, str], tmp_path: Path
) -> None:
    touch(tmp_path / "P1", contour + endings[1], "notes.txt")
    if endings[0]:
        touch(tmp_path / "P1", ct + endings[0])
    else:
        (tmp_path / "P1" / ct).mkdir()
    found = annotated(tmp_path)
    assert (found.ct.name, found.contour.name, found.patient) == (ct + endings[0], contour + endings[1], "P1")


def test_both_visits_of_a_simulated_case_are_found_and_are_of_one_patient(tmp_path: Path) -> None:
    for case in ("a", "b"):
        touch(tmp_path / case, "prior_ct.nii.gz", "prior_seg.nii.gz", "followup_ct.nii.gz", "followup_seg.nii.gz")
        (tmp_path / case / "case.json").write_text(json.dumps({"source": "S7", "fill": TRAINING_FILLS[0]}))
    found = find_annotated_cts(tmp_path)
    assert [each.name for each in found] == [f"{c}/{v}_ct.nii.gz" for c in "ab" for v in ("prior", "followup")]
    assert {each.patient for each in found} == {"S7"}


def test_a_ct_without_its_contour_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "P1", "prior_ct.nii.gz", "prior_seg.nii.gz", "followup_ct.nii.gz")
    touch(tmp_path / "P2", "ct.nii.gz", "followup_seg.nii.gz")
    touch(tmp_path, "ct.nii.gz", "seg.nii.gz")
    assert annotated(tmp_path).ct.name == "prior_ct.nii.gz"


def test_a_folder_without_cases_is_refused_and_so_is_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    assert refused(folder) == "cases: not a folder of training cases"
    touch(folder / "P1", "ct.nii.gz")
    assert refused(folder).startswith("cases: no folder in it holds a CT with its contour")


@pytest.mark.parametrize("fill", HELD_OUT_FILLS)
def test_a_case_that_is_kept_for_testing_is_refused(fill: str, tmp_path: Path) -> None:
    touch(tmp_path / "P1", "ct.nii.gz", "seg.nii.gz")
    (tmp_path / "P1" / "case.json").write_text(json.dumps({"fill": fill}))
    message = refused(tmp_path)
    assert message.startswith("P1: ")
    assert f"'{fill}'" in message


def test_a_case_simulated_with_a_held_out_fill_by_the_program_itself_is_refused(tmp_path: Path) -> None:
    from P2SAMSlicerLib.simulation.visit import SimulationOptions, simulate_followup

    mask = lesion()
    visit = simulate_followup(body([mask], GRID), mask, SimulationOptions("shrink", fill="synthesis", seed=1))
    touch(tmp_path / "P1", "ct.nii.gz", "seg.nii.gz")
    (tmp_path / "P1" / "case.json").write_text(json.dumps(visit.record))
    assert refused(tmp_path).startswith("P1: ")


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_a_damaged_case_file_is_refused(text: str, tmp_path: Path) -> None:
    touch(tmp_path / "P1", "ct.nii.gz", "seg.nii.gz")
    (tmp_path / "P1" / "case.json").write_bytes(text.encode("latin-1"))
    assert refused(tmp_path).startswith("P1: case.json ")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("share", "validating"), [(0.0, 0), (0.01, 1), (0.3, 2), (0.8, 4)])
def test_nobody_both_trains_and_validates(share: float, validating: int, seed: int) -> None:
    counts = {"A": 1, "B": 2, "C": 3, "D": 1, "E": 2}
    cts = [AnnotatedCT(f"{p}{k}", p, Path("ct"), Path("seg")) for p, count in counts.items() for k in range(count)]
    training, validation = split_by_patient(cts, share, seed)
    assert not {c.patient for c in training} & {c.patient for c in validation}
    assert len({c.patient for c in validation}) == validating
    assert sorted(c.name for c in training + validation) == sorted(c.name for c in cts)
    assert (training, validation) == split_by_patient(cts, share, seed)


def test_different_seeds_let_different_patients_validate() -> None:
    cts = [AnnotatedCT(p, p, Path("ct"), Path("seg")) for p in "ABCDE"]
    assert len({split_by_patient(cts, 0.2, seed)[1][0].patient for seed in range(20)}) > 2


def test_validation_with_one_patient_is_refused_in_one_line() -> None:
    cts = [AnnotatedCT(n, "A", Path("ct"), Path("seg")) for n in "xy"]
    with pytest.raises(InputError, match=r"^--validation: with 1 patient\(s\) nobody would be left to train on$"):
        split_by_patient(cts, 0.15, 0)
    assert split_by_patient(cts, 0.0, 0) == (cts, [])


def test_named_patients_are_held_out_and_no_others() -> None:
    cts = [AnnotatedCT(f"{p}{k}", p, Path("ct"), Path("seg")) for p in "ABC" for k in range(2)]
    training, validation = split_by_patient(cts, 0.9, 0, ["B"])
    assert {c.patient for c in validation} == {"B"}
    assert {c.patient for c in training} == {"A", "C"}
    with pytest.raises(InputError, match=r"^--hold-out: there is no patient 'D'; there are: A, B, C$"):
        split_by_patient(cts, 0.0, 0, ["A", "D"])
    with pytest.raises(InputError, match=r"^--hold-out: with 3 patient\(s\) nobody would be left to train on$"):
        split_by_patient(cts, 0.0, 0, "ABC")


@pytest.mark.parametrize(
    ("facts", "patients"), [({"source": "unknown"}, 2), ({"source": "X"}, 1), ({"patient": "", "source": "X"}, 1)]
)
def test_a_source_that_nobody_named_makes_no_common_patient(facts: dict[str, str], patients: int, tmp_path: Path) -> None:
    for name in ("P1", "P2"):
        touch(tmp_path / name, "ct.nii.gz", "seg.nii.gz")
        (tmp_path / name / "case.json").write_text(json.dumps(facts))
    assert len({each.patient for each in find_annotated_cts(tmp_path)}) == patients


@pytest.fixture
def usual(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """The examples of the small body's one lesion."""
    return examples_of(annotated(write_patients(tmp_path_factory.mktemp("usual"), 1)), MARGIN_MM, seed=1)


def test_the_usual_placement_is_the_region_image_and_contour_of_clinical_mode(usual: list[Example]) -> None:
    mask = lesion()
    volume = body([mask], GRID, 5)
    region = region_around(mask, GRID, MARGIN_MM, REGION_PIXELS)
    beyond = int(np.ceil(BEYOND_ENDS_MM / GRID.spacing[2]))
    present = np.flatnonzero(mask.any(axis=(1, 2)))
    rows = range(max(0, present[0] - beyond), min(len(mask), present[-1] + beyond + 1))
    assert len(usual) == PLACEMENTS * len(rows)
    for z, example in zip(rows, usual, strict=False):
        np.testing.assert_array_equal(example.image, to_rgb(region.crop(volume.array[z], GRID), WINDOWS["soft tissue"]))
        expected = region.crop(mask[z].astype(np.float32), GRID, outside=0.0) > 0.5
        np.testing.assert_array_equal(example.truth, expected)
        assert example.pixel_mm == region.pixel_mm
        back = region.place(example.truth.astype(np.float32), GRID, 0.0) > 0.5
        assert dice(back, mask[z]) > 0.95 if mask[z].any() else not back.any()


def test_slices_beyond_the_ends_have_no_truth_and_the_nearest_contour(usual: list[Example]) -> None:
    found = [example.truth.any() for example in usual]
    size = len(usual) // PLACEMENTS
    assert found == 2 * [False, False, True, True, True, False, False]
    for placement in range(PLACEMENTS):
        slices = usual[placement * size : (placement + 1) * size]
        for empty, end in ((0, 2), (1, 2), (5, 4), (6, 4)):
            np.testing.assert_array_equal(slices[empty].nearest, slices[end].truth)
        assert all(np.array_equal(each.nearest, each.truth) for each in slices[2:5])


def test_other_placements_show_the_same_lesion_elsewhere_and_otherwise_bright(usual: list[Example]) -> None:
    size = len(usual) // PLACEMENTS
    first, second = usual[3], usual[size + 3]
    assert first.pixel_mm != second.pixel_mm
    areas = [each.truth.sum() * each.pixel_mm**2 for each in (first, second)]
    assert areas[0] == pytest.approx(areas[1], rel=0.03)
    means = [each.image[each.truth].mean() for each in (first, second)]
    assert abs(means[0] - means[1]) > 0.2


def test_some_other_placements_show_the_same_contour_in_lung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples_module, "IN_LUNG", 1.0)
    ct = annotated(write_patients(tmp_path, 1))
    found = examples_of(ct, MARGIN_MM, seed=1)
    size = len(found) // PLACEMENTS
    usual, lung = found[3], found[size + 3]
    ring = ndimage.binary_dilation(lung.truth, iterations=8) & ~ndimage.binary_dilation(lung.truth, iterations=4)
    assert np.median(lung.image[ring]) < 30 < np.median(usual.image[ring])
    inside = ndimage.binary_erosion(lung.truth, iterations=3)
    assert abs(float(np.median(lung.image[inside])) - float(np.median(usual.image[inside]))) < 40


def test_lung_lies_around_the_tumour_and_leaves_it_and_the_wall_as_they_were() -> None:
    rows, columns = np.indices((128, 128))
    tumour = (rows - 64) ** 2 + (columns - 64) ** 2 < 20**2
    hu = np.random.default_rng(0).normal(50, 10, tumour.shape).astype(np.float32)
    shown = in_lung(hu, tumour, 1.0, np.random.default_rng(1))
    core = ndimage.binary_erosion(tumour, iterations=3)
    np.testing.assert_allclose(shown[core], hu[core], atol=1.0)
    air, same = (shown < -600).mean(), np.isclose(shown, hu, atol=1.0).mean()
    assert 0.3 < air < 0.9
    assert same > core.mean() + 0.02, "no wall was left"
    np.testing.assert_array_equal(shown, in_lung(hu, tumour, 1.0, np.random.default_rng(1)))
    nothing = in_lung(hu, np.zeros_like(tumour), 1.0, np.random.default_rng(1))
    assert np.isfinite(nothing).all()


def test_examples_repeat_with_a_seed_and_differ_between_seeds(usual: list[Example], tmp_path: Path) -> None:
    ct = annotated(write_patients(tmp_path, 1))
    for seed, same in ((1, True), (2, False)):
        again = examples_of(ct, MARGIN_MM, seed)
        assert all(np.array_equal(a.image, b.image) for a, b in zip(usual, again, strict=True)) == same


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_stored_axis_order_gives_the_same_examples(
    order: tuple[int, int, int], usual: list[Example], tmp_path: Path
) -> None:
    flipped = [bool(order[0] % 2), bool(order[1] % 2), order[2] == 0]
    mask = lesion()
    volume = stored(body([mask], GRID, 5), order, flipped)
    contour = stored(Volume(mask.astype(np.uint8), GRID), order, flipped).array.astype(np.bool_)
    # The usual name, because the other placements are drawn from it.
    write_pair(tmp_path / "P0", "ct.nii.gz", "seg.nrrd", volume, contour)
    again = examples_of(annotated(tmp_path), MARGIN_MM, seed=1)
    assert len(again) == len(usual)
    for one, other in zip(usual, again, strict=True):
        np.testing.assert_array_equal(one.truth, other.truth)
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
        assert one.pixel_mm == pytest.approx(other.pixel_mm)


@pytest.mark.parametrize(("apart", "lesions"), [(34.0, 1), (52.0, 2)])
def test_pieces_share_a_region_or_have_their_own_as_in_clinical_mode(apart: float, lesions: int, tmp_path: Path) -> None:
    masks = [lesion(-apart / 2), lesion(apart / 2)]
    write_pair(tmp_path / "P0", "ct.nrrd", "seg.seg.nrrd", body(masks, GRID), masks[0] | masks[1])
    found = examples_of(annotated(tmp_path), MARGIN_MM, seed=1)
    assert len(found) == lesions * PLACEMENTS * 7
    pieces = ndimage.label(found[3].nearest)[1]
    assert pieces == 3 - lesions
    # What else there is of the tumour in the region is never background.
    assert not (found[3].nearest & ~found[3].truth).any()


def test_an_empty_contour_is_refused_with_the_case_that_has_it(tmp_path: Path) -> None:
    for name in ("seg.nii.gz", "seg.seg.nrrd"):
        write_pair(tmp_path / name / "P0", "ct.nii.gz", name, body([], GRID), np.zeros(GRID.shape, dtype=np.bool_))
        with pytest.raises(InputError) as caught:
            examples_of(annotated(tmp_path / name), MARGIN_MM, seed=1)
        assert str(caught.value).startswith("P0: ")
        assert "\n" not in str(caught.value)


def test_a_ct_that_is_none_is_refused_with_the_case_that_has_it(tmp_path: Path) -> None:
    touch(tmp_path / "P0", "ct.nii.gz")
    write_volume(Volume(lesion().astype(np.uint8), GRID), tmp_path / "P0" / "seg.nii.gz")
    with pytest.raises(InputError, match=r"^P0: ct\.nii\.gz: "):
        examples_of(annotated(tmp_path), MARGIN_MM, seed=1)


def test_several_structures_are_refused_as_no_one_says_which_is_the_tumour(tmp_path: Path) -> None:
    mask = lesion()
    write_pair(tmp_path / "P0", "ct.nii.gz", "seg.nii.gz", body([mask], GRID), mask)
    labels = mask.astype(np.uint8)
    labels[:, :5, :5] = 2
    write_volume(Volume(labels, GRID), tmp_path / "P0" / "seg.nii.gz")
    with pytest.raises(InputError, match=r"^P0: seg.* several structures; name the tumour"):
        examples_of(annotated(tmp_path), MARGIN_MM, seed=1)


def test_the_tumour_among_several_structures_is_the_one_that_the_case_names(tmp_path: Path, usual: list[Example]) -> None:
    mask = lesion()
    write_pair(tmp_path / "P0", "ct.nii.gz", "seg.seg.nrrd", body([mask], GRID, 5), mask)
    other = np.zeros_like(mask)
    other[:, :5, :5] = True
    segments = (Segment("Skin", other), Segment("GTV", mask))
    write_segmentation(Segmentation(GRID, segments), tmp_path / "P0" / "seg.seg.nrrd")
    (tmp_path / "P0" / "case.json").write_text(json.dumps({"segment": "GTV"}))
    found = examples_of(annotated(tmp_path), MARGIN_MM, seed=1)
    assert all(np.array_equal(a.truth, b.truth) for a, b in zip(usual, found, strict=True))


def test_augmentation_turns_image_and_contours_alike_and_keeps_the_lesions_area(usual: list[Example]) -> None:
    from dataclasses import replace

    usual_slice = usual[3]
    picture = np.repeat(np.where(usual_slice.truth, 200, 20).astype(np.uint8)[..., None], 3, axis=2)
    example = replace(usual_slice, image=picture)
    rng = np.random.default_rng(4)
    sizes = []
    for _ in range(20):
        turned = augmented(example, rng)
        assert turned.image.dtype == np.uint8
        assert dice(turned.image[..., 1] > 110, turned.truth) > 0.98
        np.testing.assert_array_equal(turned.truth, turned.nearest)
        area = turned.truth.sum() * turned.pixel_mm**2
        assert area == pytest.approx(example.truth.sum() * example.pixel_mm**2, rel=0.03)
        sizes.append(example.pixel_mm / turned.pixel_mm)
    assert 0.8 <= min(sizes) < 0.9
    assert 1.1 < max(sizes) <= 1.2


def test_augmentation_keeps_an_empty_truth_and_never_loses_a_lesion(usual: list[Example]) -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        assert not augmented(usual[0], rng).truth.any()
        assert augmented(usual[0], rng).nearest.any()
        assert augmented(usual[3], rng).truth.any()


def test_a_followup_on_which_the_tumour_has_vanished_is_left_out_and_its_prior_is_not(tmp_path: Path) -> None:
    case = tmp_path / "case"
    write_pair(case, "prior_ct.nii.gz", "prior_seg.nii.gz", body([lesion()], GRID), lesion())
    write_pair(case, "followup_ct.nii.gz", "followup_seg.nii.gz", body([], GRID), np.zeros_like(lesion()))
    (case / "case.json").write_text('{"change": "vanish"}', encoding="utf-8")
    assert [each.ct.name for each in find_annotated_cts(tmp_path)] == ["prior_ct.nii.gz"]
