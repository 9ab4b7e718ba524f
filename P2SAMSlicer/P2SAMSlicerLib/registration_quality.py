"""How far a registration can be trusted: figures for the report, and reasons to flag the visit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.registration import Pyramid, Registration, array_to_image, body_mask, similarity, to_image
from P2SAMSlicerLib.volume import BoolArray, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

#: Limits beyond which a visit is flagged. Set-up errors of a few millimetres and degrees are normal; a table that was moved is
#: not an error, so the shift is judged by what remains between the bodies' own positions only where the scanner's
#: coordinates are shared - hence the generous limit.
MAX_SHIFT_MM = 150.0
MAX_ROTATION_DEG = 15.0
MAX_DEFORMATION_MM = 25.0
MIN_BODY_CORRELATION = 0.75
MIN_LOCAL_CORRELATION = 0.5
LOCAL_MM = 25.0
QUALITY_MM = 3.0


@dataclass(frozen=True)
class RegistrationQuality:
    """Figures of one registration, for the report and for the flags.

    :param shift_mm: displacement of the lesion's centre by the rigid part, length in mm.
    :param rotation_deg: angle of the rigid part.
    :param body_correlation: correlation of HU in the body after registration, -1..1.
    :param local_correlation: the same within 25 mm of the carried lesion, the lesion itself left out.
    :param deformation_mm: longest displacement that the deformable step adds near the lesion (0 without one).
    :param folded_share: share of voxels near the lesion whose Jacobian determinant is not positive (TG-132).
    :param reasons: why the registration is not trusted; empty if no check objected.
    """

    shift_mm: float
    rotation_deg: float
    body_correlation: float
    local_correlation: float
    deformation_mm: float
    folded_share: float
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        figures = {
            name: round(float(value), 4) if np.isfinite(value) else None
            for name, value in vars(self).items()
            if name != "reasons"
        }
        return {**figures, "reasons": list(self.reasons)}


def assess(prior: Volume, followup: Volume, registration: Registration, carried: BoolArray) -> RegistrationQuality:
    """Judge a registration by what it leaves, independent of the measure that it was optimised by.

    :param carried: the carried lesion on the follow-up's grid.
    """
    import SimpleITK as sitk

    fixed, moving = Pyramid(to_image(followup)).at(QUALITY_MM), Pyramid(to_image(prior)).at(QUALITY_MM)
    lesion = sitk.Resample(array_to_image(carried, followup.grid), fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    near = _near(sitk.GetArrayFromImage(lesion) > 0, np.asarray(fixed.GetSpacing())[::-1])
    # Without the skin: a fraction of a voxel there is a step of a thousand HU, and would outweigh the whole body.
    body = sitk.BinaryErode(body_mask(fixed), [1, 1, 0])
    local = sitk.GetImageFromArray((near & (sitk.GetArrayFromImage(lesion) == 0)).astype(np.uint8))
    local.CopyInformation(fixed)
    body_correlation = similarity(fixed, moving, body, registration.transform)
    known = bool(sitk.GetArrayViewFromImage(local).any())
    local_correlation = similarity(fixed, moving, local, registration.transform) if known else float("nan")
    centre = _centre(carried, followup)
    shift = float(np.linalg.norm(np.asarray(registration.rigid.TransformPoint(centre.tolist())) - centre))
    deformation, folded = _deformation(registration, fixed, near)
    figures = (shift, _rotation_deg(registration.rigid, centre), body_correlation, local_correlation, deformation, folded)
    return RegistrationQuality(*figures, reasons=_reasons(*figures))


def _reasons(
    shift: float, rotation: float, body_correlation: float, local_correlation: float, deformation: float, folded: float
) -> tuple[str, ...]:
    checks = (
        (shift > MAX_SHIFT_MM, f"registration moves the lesion by {shift:.0f} mm (limit {MAX_SHIFT_MM:.0f})"),
        (
            rotation > MAX_ROTATION_DEG,
            f"registration turns the patient by {rotation:.0f} degrees (limit {MAX_ROTATION_DEG:.0f})",
        ),
        (
            body_correlation < MIN_BODY_CORRELATION,
            f"the CTs agree poorly in the body (correlation {body_correlation:.2f}, limit {MIN_BODY_CORRELATION})",
        ),
        (np.isnan(local_correlation), "the lesion was carried out of view, so the registration cannot be judged there"),
        (
            local_correlation < MIN_LOCAL_CORRELATION,
            f"the CTs agree poorly near the lesion (correlation {local_correlation:.2f}, limit {MIN_LOCAL_CORRELATION})",
        ),
        (
            deformation > MAX_DEFORMATION_MM,
            f"the deformable step moves tissue near the lesion by {deformation:.0f} mm (limit {MAX_DEFORMATION_MM:.0f})",
        ),
        (folded > 0, f"the deformable step folds space in {100 * folded:.2f} % of the lesion's neighbourhood"),
    )
    return tuple(text for failed, text in checks if failed)


def _near(mask: BoolArray, spacing_zyx: NDArray[np.float64]) -> BoolArray:
    from scipy import ndimage

    if not mask.any():
        return mask
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~mask, spacing_zyx)
    return distance <= LOCAL_MM


def _centre(mask: BoolArray, volume: Volume) -> NDArray[np.float64]:
    if not mask.any():
        middle = (np.asarray(volume.grid.shape[::-1], dtype=np.float64)[None] - 1) / 2
    else:
        middle = np.argwhere(mask)[:, ::-1].mean(axis=0, keepdims=True)
    centre: NDArray[np.float64] = volume.grid.to_physical(middle)[0]
    return centre


def _rotation_deg(transform: sitk.Transform, centre: NDArray[np.float64]) -> float:
    """Angle of the transform's linear part at the lesion, from how it moves three short axes."""
    step = 10.0
    start = np.asarray(transform.TransformPoint(centre.tolist()))
    columns = [(np.asarray(transform.TransformPoint((centre + step * axis).tolist())) - start) / step for axis in np.eye(3)]
    left, _, right = np.linalg.svd(np.stack(columns, axis=1))
    cosine = (np.trace(left @ right) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _deformation(registration: Registration, fixed: sitk.Image, near: BoolArray) -> tuple[float, float]:
    """Longest displacement beyond the rigid part, and share of folded voxels, near the lesion."""
    import SimpleITK as sitk

    if registration.kind not in ("deformable", "file") or not near.any():
        return 0.0, 0.0
    both = []
    for transform in (registration.transform, registration.rigid):
        field = sitk.TransformToDisplacementField(
            transform, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
        )
        both.append(field)
    difference = sitk.GetArrayFromImage(both[0])[near] - sitk.GetArrayFromImage(both[1])[near]
    jacobian = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(both[0]))[near]
    return float(np.linalg.norm(difference, axis=1).max()), float((jacobian <= 0).mean())
