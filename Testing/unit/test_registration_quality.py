"""A registration that cannot be trusted is flagged with its reason; one that can be is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.registration import Registration, carry_distance, register
from P2SAMSlicerLib.registration_quality import (
    MAX_ROTATION_DEG,
    MAX_SHIFT_MM,
    BodyQuality,
    LocalQuality,
    RegistrationJudge,
    worst_of,
)
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import BoolArray, Volume
from P2SAMSlicerLib.volume_file import read_volume
from textured_phantom import Body, Motion, grid_around, scan

BODY = Body()
PRIOR, LESION = scan(BODY, grid_around())
CENTRE = np.array(BODY.lesion_at)


@dataclass(frozen=True)
class Judged:
    """What is said of the body and of one segment."""

    body: BodyQuality
    near: LocalQuality

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.body.reasons + self.near.reasons


def assess(prior: Volume, followup: Volume, registration: Registration, carried: BoolArray) -> Judged:
    judge = RegistrationJudge(prior, followup, registration)
    return Judged(judge.body(carried), judge.near(carried))


def judged(
    transform: sitk.Transform, followup: Volume, rigid: sitk.Transform | None = None, carried: BoolArray | None = None
) -> Judged:
    kind = "rigid" if rigid is None else "deformable"
    registration = Registration(transform, rigid or transform, kind)  # type: ignore[arg-type]
    if carried is None:
        carried = carry_distance(LESION, PRIOR.grid, followup.grid, transform) >= 0
    return assess(PRIOR, followup, registration, carried)


def rigid_of(motion: Motion) -> sitk.Euler3DTransform:
    """The motion as ITK's transform; ITK turns about z, x, y, so only one angle at a time is given here."""
    x, y, z = np.radians(motion.degrees)
    return sitk.Euler3DTransform((0.0, 0.0, 0.0), float(x), float(y), float(z), motion.shift)


def test_the_true_transform_is_trusted_and_its_figures_are_right() -> None:
    motion = Motion((0.0, 0.0, 4.0), (5.0, -3.0, 6.0))
    followup, lesion = scan(BODY, grid_around(half_mm=84.0), motion, 2)
    found = judged(rigid_of(motion), followup, carried=lesion)
    assert found.reasons == ()
    assert found.body.rotation_deg == pytest.approx(4.0, abs=0.01)
    index = np.argwhere(lesion)[:, ::-1].mean(axis=0, keepdims=True)
    centre = followup.grid.to_physical(index)
    assert found.near.shift_mm == pytest.approx(np.linalg.norm(motion(centre) - centre), abs=0.01)
    assert found.body.body_correlation > 0.75  # voxels of the body's edge lower it: half air in one scan, fat in the other
    assert found.near.local_correlation > 0.99
    assert found.near.deformation_mm == found.near.folded_share == 0.0


def test_an_implausible_shift_is_flagged() -> None:
    motion = Motion((0.0, 0.0, 0.0), (0.0, 0.0, MAX_SHIFT_MM + 20))
    grid = grid_around(-MAX_SHIFT_MM - 20)
    followup, _ = scan(BODY, grid, motion, 2)
    (reason,) = judged(rigid_of(motion), followup).reasons
    assert "moves the lesion by 170 mm" in reason


def test_an_implausible_rotation_is_flagged_though_the_images_agree() -> None:
    motion = Motion((0.0, 0.0, MAX_ROTATION_DEG + 10), (0.0, 0.0, 0.0))
    followup, _ = scan(BODY, grid_around(half_mm=100.0), motion, 2)
    (reason,) = judged(rigid_of(motion), followup).reasons
    assert "turns the patient by 25 degrees" in reason


def test_a_mirrored_patient_is_flagged() -> None:
    mirror = sitk.AffineTransform([-1.0, 0, 0, 0, 1, 0, 0, 0, 1], [0.0, 0.0, 0.0])
    followup, _ = scan(BODY, grid_around())
    flipped = replace(followup, array=followup.array[:, :, ::-1].copy())
    assert any("turns the patient" in reason for reason in judged(mirror, flipped).reasons)


@pytest.mark.parametrize("shift", [(12.0, 0.0, 0.0), (0.0, 0.0, 25.0)])
def test_a_registration_that_missed_is_flagged_by_what_it_leaves(shift: tuple[float, float, float]) -> None:
    followup, _ = scan(BODY, grid_around(), noise_seed=2)
    reasons = judged(rigid_of(Motion((0, 0, 0), shift)), followup).reasons
    assert any("agree poorly" in reason for reason in reasons)


def test_another_patient_of_the_same_outline_is_flagged() -> None:
    followup, _ = scan(Body(seed=7), grid_around(), noise_seed=2)
    found = register(PRIOR, followup, LESION)
    assert any("agree poorly" in reason for reason in judged(found.transform, followup).reasons)


def field_of(displacement: NDArray[np.float64]) -> sitk.DisplacementFieldTransform:
    image = sitk.GetImageFromArray(displacement, isVector=True)
    image.SetSpacing(PRIOR.grid.spacing)
    image.SetOrigin(PRIOR.grid.origin)
    return sitk.DisplacementFieldTransform(image)


def pushed(length_mm: float, width_mm: float) -> sitk.DisplacementFieldTransform:
    """Points near the lesion are pushed along x by up to ``length_mm``, over ``width_mm``."""
    points = PRIOR.grid.to_physical(np.indices(PRIOR.grid.shape).reshape(3, -1).T[:, ::-1].astype(np.float64))
    push = length_mm * np.exp(-((points - CENTRE) ** 2).sum(axis=1) / (2 * width_mm**2))
    return field_of((push[:, None] * np.array([1.0, 0.0, 0.0])).reshape(*PRIOR.grid.shape, 3))


def test_folded_space_is_flagged_and_a_smooth_push_is_not() -> None:
    identity = sitk.Euler3DTransform()
    followup, lesion = scan(BODY, grid_around(), noise_seed=2)
    smooth = judged(sitk.CompositeTransform([identity, pushed(5.0, 20.0)]), followup, identity, lesion)
    assert smooth.near.folded_share == 0.0
    assert smooth.near.deformation_mm == pytest.approx(5.0, abs=0.3)
    assert not any("fold" in reason for reason in smooth.reasons)
    folded = judged(sitk.CompositeTransform([identity, pushed(20.0, 7.0)]), followup, identity, lesion)
    assert folded.near.folded_share > 0.0
    assert any("folds space" in reason for reason in folded.reasons)


def test_a_deformation_that_no_tissue_makes_is_flagged() -> None:
    identity = sitk.Euler3DTransform()
    followup, lesion = scan(BODY, grid_around(), noise_seed=2)
    found = judged(sitk.CompositeTransform([identity, pushed(40.0, 60.0)]), followup, identity, lesion)
    assert any("moves tissue near the lesion by 40 mm" in reason for reason in found.reasons)


def test_a_folding_transform_from_a_file_is_flagged() -> None:
    followup, lesion = scan(BODY, grid_around(), noise_seed=2)
    transform = pushed(20.0, 7.0)
    found = assess(PRIOR, followup, Registration(transform, transform, "file"), lesion)
    assert any("folds space" in reason for reason in found.reasons)
    assert found.near.as_dict()["deformation_mm"] is None, "nobody knows its rigid part"


def test_a_lesion_carried_out_of_view_is_flagged() -> None:
    followup, _ = scan(BODY, grid_around(), noise_seed=2)
    found = judged(sitk.Euler3DTransform(), followup, carried=np.zeros(followup.grid.shape, bool))
    assert found.reasons
    json.dumps(found.near.as_dict(), allow_nan=False)


def test_the_figures_are_ready_for_json() -> None:
    followup, _ = scan(BODY, grid_around(), noise_seed=2)
    found = judged(rigid_of(Motion((0, 0, 20), (0, 0, 0))), followup)
    read = json.loads(json.dumps(found.body.as_dict(), allow_nan=False))
    assert read["rotation_deg"] == pytest.approx(20.0, abs=0.01)
    assert read["reasons"] == list(found.body.reasons)


def test_of_several_lesions_the_worst_figures_are_kept_and_every_reason_names_its_lesion() -> None:
    good, bad = LocalQuality(9.0, 0.95, 1.0, 0.0, ()), LocalQuality(3.0, 0.2, 2.0, 0.1, ("poor", "folded"))
    gone = LocalQuality(400.0, float("nan"), 0.0, 0.0, ("out of view",))
    assert worst_of([good]) == good
    reasons = ("lesion 2 of 3: poor", "lesion 2 of 3: folded", "lesion 3 of 3: out of view")
    assert worst_of([good, bad, gone]) == LocalQuality(9.0, 0.2, 2.0, 0.1, reasons)


# ------------------------------------------------------------------------------------------------------ several segments

#: A small second segment away from the lesion.
SECOND_AT = CENTRE + np.array([-45.0, 25.0, -15.0])


def around(centre: NDArray[np.float64], radius_mm: float) -> BoolArray:
    """Voxels of the prior's grid within a ball."""
    points = PRIOR.grid.to_physical(np.indices(PRIOR.grid.shape).reshape(3, -1).T[:, ::-1].astype(np.float64))
    inside: BoolArray = (((points - centre) ** 2).sum(axis=1) <= radius_mm**2).reshape(PRIOR.grid.shape)
    return inside


def test_tissue_that_does_not_agree_near_one_segment_is_said_of_that_segment_alone() -> None:
    followup, lesion = scan(BODY, grid_around(), noise_seed=2)
    second, spoilt = around(SECOND_AT, 3.0), around(SECOND_AT, 28.0)
    array = followup.array.copy()
    array[spoilt] = np.random.default_rng(1).permutation(array[spoilt])
    identity = sitk.Euler3DTransform()
    judge = RegistrationJudge(PRIOR, replace(followup, array=array), Registration(identity, identity, "rigid"))
    assert judge.near(lesion).reasons == ()
    assert judge.near(lesion | second).reasons == ()  # judged together, the large one hides the small one
    assert any("agree poorly near the lesion" in reason for reason in judge.near(second).reasons)


def test_space_folded_near_one_segment_is_said_of_that_segment_alone() -> None:
    followup, lesion = scan(BODY, grid_around(), noise_seed=2)
    identity = sitk.Euler3DTransform()
    folded = sitk.CompositeTransform([identity, pushed(20.0, 7.0)])
    judge = RegistrationJudge(PRIOR, followup, Registration(folded, identity, "deformable"))
    assert any("folds space" in reason for reason in judge.near(lesion).reasons)
    assert judge.near(around(SECOND_AT - np.array([15.0, 15.0, 0.0]), 6.0)).folded_share == 0.0


def test_a_segment_of_one_voxel_is_judged_and_not_called_out_of_view() -> None:
    grid = grid_around(spacing=(1.0, 1.0, 1.0), half_mm=45.0)
    followup, _ = scan(BODY, grid, noise_seed=2)
    identity = sitk.Euler3DTransform()
    judge = RegistrationJudge(PRIOR, followup, Registration(identity, identity, "rigid"))
    for offset in range(3):  # whichever voxel of the coarse image it falls between
        single = np.zeros(grid.shape, dtype=np.bool_)
        single[tuple(n // 2 + offset for n in grid.shape)] = True
        assert not any("out of view" in reason for reason in judge.near(single).reasons)


def test_a_followup_without_a_body_is_named() -> None:
    air = Volume(np.full(PRIOR.grid.shape, -1000, np.int16), PRIOR.grid, "week3")
    identity = sitk.Euler3DTransform()
    with pytest.raises(InputError, match=r"^the follow-up CT 'week3' shows no body \(nothing above -400 HU\)$"):
        RegistrationJudge(PRIOR, air, Registration(identity, identity, "none")).body(LESION)


# ---------------------------------------------------------------------------------------------------------- real visits


def real(folder: Path) -> tuple[Volume, BoolArray, Volume]:
    prior, followup = read_volume(folder / "prior_ct.nii.gz"), read_volume(folder / "followup_ct.nii.gz")
    return prior, read_segmentation(folder / "prior_seg.nii.gz").segments[0].mask, followup


def registered(prior: Volume, mask: BoolArray, followup: Volume) -> Judged:
    found = register(prior, followup, mask)
    carried = carry_distance(mask, prior.grid, followup.grid, found.transform) >= 0
    return assess(prior, followup, found, carried)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param("limb_f_stable", marks=pytest.mark.long),
        pytest.param("thigh_a_shrink", marks=pytest.mark.long),
        "lung_i_shrink",
    ],
)
def test_a_real_pair_of_one_patient_is_not_flagged(visit_case: Callable[[str], Path], case: str) -> None:
    found = registered(*real(visit_case(case)))
    assert found.reasons == ()
    assert found.near.shift_mm < 20
    assert found.body.rotation_deg < 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "other"),
    [("thigh_a_shrink", "thigh_d_grow"), pytest.param("limb_f_stable", "thigh_a_shrink", marks=pytest.mark.long)],
)
def test_the_followup_of_another_patient_is_flagged_by_the_images(
    visit_case: Callable[[str], Path], case: str, other: str
) -> None:
    """Both scans are put at the same coordinates first, so that the shift alone does not give it away."""
    prior, mask, _ = real(visit_case(case))
    _, _, followup = real(visit_case(other))
    move = prior.grid.corners().mean(axis=0) - followup.grid.corners().mean(axis=0)
    x, y, z = (float(v) for v in np.asarray(followup.grid.origin) + move)
    followup = replace(followup, grid=replace(followup.grid, origin=(x, y, z)))
    assert any("agree poorly in the body" in reason for reason in registered(prior, mask, followup).reasons)
