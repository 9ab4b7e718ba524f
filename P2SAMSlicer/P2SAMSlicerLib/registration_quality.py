"""How far a registration can be trusted, in the body and near each segment: figures for the report, and reasons to flag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.registration import Registration, array_to_image, body_mask, resample_to_spacing, similarity, to_image
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
class BodyQuality:
    """Figures of one registration over the whole body.

    :param rotation_deg: angle of the rigid part.
    :param body_correlation: correlation of HU in the body after registration, -1..1.
    :param reasons: why the registration is not trusted; empty if no check objected.
    """

    rotation_deg: float
    body_correlation: float
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return _plain(self)


@dataclass(frozen=True)
class LocalQuality:
    """Figures of one registration near one lesion, or the worst near any lesion of a segment (:func:`worst_of`).

    :param shift_mm: displacement of the lesion's centre by the rigid part, length in mm.
    :param local_correlation: correlation of HU within 25 mm of the carried lesion, the lesion itself left out; NaN where
        it was carried out of view.
    :param deformation_mm: longest displacement that the deformable step adds there (0 without one; NaN for a transform
        from a file, whose rigid part is not known).
    :param folded_share: share of voxels there whose Jacobian determinant is not positive (TG-132).
    :param reasons: why the registration is not trusted there; empty if no check objected.
    """

    shift_mm: float
    local_correlation: float
    deformation_mm: float
    folded_share: float
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return _plain(self)


class RegistrationJudge:
    """Judges a registration by what it leaves, independent of the measure that it was optimised by.

    A registration may fit around one lesion and miss another, so each is judged by its own neighbourhood: judged together,
    a large one would hide a small one.

    :param prior: CT of the prior visit.
    :param followup: CT of the follow-up, in the same millimetre frame.
    :ivar fixed: the follow-up with voxels of at least 3 mm.
    :ivar moving: the prior likewise.
    """

    def __init__(self, prior: Volume, followup: Volume, registration: Registration) -> None:
        # Only the coarse images are kept: this lives as long as the segmentation takes, and the full ones are large.
        self.fixed = resample_to_spacing(to_image(followup), QUALITY_MM)
        self.moving = resample_to_spacing(to_image(prior), QUALITY_MM)
        self._followup = followup
        self._registration = registration
        self._fields: tuple[NDArray[np.float32], BoolArray] | None = None

    def body(self, lesions: BoolArray) -> BodyQuality:
        """Figures of the whole body.

        :param lesions: all carried segments on the follow-up's grid; the rotation of a transform that is not rigid is taken
            in their middle.
        :raises InputError: the follow-up shows no body.
        """
        import SimpleITK as sitk

        # Without the skin: a fraction of a voxel there is a step of a thousand HU, and would outweigh the whole body.
        body = sitk.BinaryErode(body_mask(self.fixed, f"follow-up CT '{self._followup.name}'"), [1, 1, 0])
        correlation = similarity(self.fixed, self.moving, body, self._registration.transform)
        rotation = _rotation_deg(self._registration.rigid, _centre(lesions, self._followup))
        return BodyQuality(rotation, correlation, _body_reasons(rotation, correlation))

    def near(self, carried: BoolArray) -> LocalQuality:
        """Figures near one carried lesion.

        :param carried: it on the follow-up's grid; empty if it was carried out of view.
        """
        import SimpleITK as sitk

        inside = self.coarse(carried)
        centre = _centre(carried, self._followup)
        if carried.any() and not inside.any():  # it is smaller than the voxels that are judged
            index = self.fixed.TransformPhysicalPointToIndex(centre.tolist())[::-1]
            inside[tuple(np.clip(index, 0, np.asarray(inside.shape) - 1))] = True
        near = _near(inside, np.asarray(self.fixed.GetSpacing())[::-1])
        around = sitk.GetImageFromArray((near & ~inside).astype(np.uint8))
        around.CopyInformation(self.fixed)
        known = bool(sitk.GetArrayViewFromImage(around).any())
        transform = self._registration.transform
        correlation = similarity(self.fixed, self.moving, around, transform) if known else float("nan")
        shift = float(np.linalg.norm(np.asarray(self._registration.rigid.TransformPoint(centre.tolist())) - centre))
        figures = (shift, correlation, *self._deformation(near))
        return LocalQuality(*figures, reasons=_local_reasons(*figures))

    def coarse(self, mask: BoolArray) -> BoolArray:
        """A mask on the follow-up's grid brought to the grid of ``fixed``."""
        import SimpleITK as sitk

        image = array_to_image(mask, self._followup.grid)
        inside = sitk.Resample(image, self.fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        result: BoolArray = sitk.GetArrayFromImage(inside) > 0
        return result

    def _deformation(self, near: BoolArray) -> tuple[float, float]:
        """Longest displacement beyond the rigid part, and share of folded voxels, within a mask."""
        from_file = self._registration.kind == "file"
        unknown = float("nan") if from_file else 0.0
        if not (from_file or self._registration.kind == "deformable") or not near.any():
            return unknown, 0.0
        if self._fields is None:
            self._fields = _displacement(self._registration, self.fixed)
        length, folded = self._fields
        return unknown if from_file else float(length[near].max()), float(folded[near].mean())


def worst_of(lesions: Sequence[LocalQuality]) -> LocalQuality:
    """Of every figure the worst among the lesions of a segment, and the reasons of all with the lesion's number.

    :param lesions: at least one. Figures of those that were carried out of view count only if all were.
    """
    if len(lesions) == 1:
        return lesions[0]
    seen = [quality for quality in lesions if np.isfinite(quality.local_correlation)] or lesions
    return LocalQuality(
        max(quality.shift_mm for quality in seen),
        min(quality.local_correlation for quality in seen),
        max(quality.deformation_mm for quality in seen),
        max(quality.folded_share for quality in seen),
        tuple(
            f"lesion {number} of {len(lesions)}: {reason}"
            for number, quality in enumerate(lesions, start=1)
            for reason in quality.reasons
        ),
    )


def _plain(quality: BodyQuality | LocalQuality) -> dict[str, Any]:
    figures = {
        name: round(float(value), 4) if np.isfinite(value) else None
        for name, value in vars(quality).items()
        if name != "reasons"
    }
    return {**figures, "reasons": list(quality.reasons)}


def _body_reasons(rotation: float, correlation: float) -> tuple[str, ...]:
    checks = (
        (
            rotation > MAX_ROTATION_DEG,
            f"registration turns the patient by {rotation:.0f} degrees (limit {MAX_ROTATION_DEG:.0f})",
        ),
        (
            correlation < MIN_BODY_CORRELATION,
            f"the CTs agree poorly in the body (correlation {correlation:.2f}, limit {MIN_BODY_CORRELATION})",
        ),
    )
    return tuple(text for failed, text in checks if failed)


def _local_reasons(shift: float, correlation: float, deformation: float, folded: float) -> tuple[str, ...]:
    checks = (
        (shift > MAX_SHIFT_MM, f"registration moves the lesion by {shift:.0f} mm (limit {MAX_SHIFT_MM:.0f})"),
        (np.isnan(correlation), "the lesion was carried out of view, so the registration cannot be judged there"),
        (
            correlation < MIN_LOCAL_CORRELATION,
            f"the CTs agree poorly near the lesion (correlation {correlation:.2f}, limit {MIN_LOCAL_CORRELATION})",
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


def _displacement(registration: Registration, fixed: sitk.Image) -> tuple[NDArray[np.float32], BoolArray]:
    """Length of the displacement beyond the rigid part in mm, and where space is folded, at every voxel."""
    import SimpleITK as sitk

    whole, rigid = (
        sitk.TransformToDisplacementField(
            transform, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
        )
        for transform in (registration.transform, registration.rigid)
    )
    folded: BoolArray = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(whole)) <= 0
    beyond = sitk.GetArrayFromImage(whole) - sitk.GetArrayFromImage(rigid)
    return np.linalg.norm(beyond, axis=-1).astype(np.float32), folded
