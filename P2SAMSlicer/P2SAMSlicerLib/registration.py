"""Prior to follow-up registration: a robust rigid start, a rigid refinement around the lesion, an optional deformable step.

Transforms map follow-up points to prior points (ITK's fixed-to-moving), in whatever millimetre frame both volumes share.
Both CTs are clipped to [-1024, 3071] HU first, so that padding and metal do not steer the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.cbct_scale import local_contrast
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.intensity import clip_hu
from P2SAMSlicerLib.volume import BoolArray, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

RegistrationKind = Literal["rigid", "deformable", "none", "file"]

#: Body surface on CT: fat is near -100 HU and air near -1000; half way is the usual cut.
BODY_HU = -400.0
#: Sampling distance of the coarse search and of the two refinements, mm.
COARSE_MM, MEDIUM_MM, FINE_MM = 6.0, 4.0, 2.0
#: The neighbourhood of the lesion that the local steps look at, mm around its bounding box.
LOCAL_MARGIN_MM = 30.0
#: Voxel size and iterations of the deformable levels, and the Gaussian that keeps the displacement smooth: wide enough not
#: to fold at the few millimetres that soft tissue moves.
DEMONS_LEVELS: Mapping[float, int] = MappingProxyType({8.0: 40, 4.0: 40, 2.5: 20})
FIELD_SMOOTHING_MM = 5.0
#: How far around a mask its distance is carried: more than any rule of the engine looks at.
CARRY_MARGIN_MM = 40.0
#: Starts that overlap the follow-up's body by less than this share are not compared.
MIN_OVERLAP = 0.25

#: Voxels along an axis below which it is not smoothed, and a deformable level is left out: ITK needs them.
SMALLEST_LEVEL = 4

#: Stands for "the prior has no voxel here" while resampling; far below any HU.
_UNKNOWN_HU = -30000.0
#: Rounding of angles (radians) and shifts (mm): far below what a voxel shows.
_PARAMETER_DECIMALS = 6
_RANDOM_SEED = 20250607


@dataclass(frozen=True)
class Registration:
    """A transform and what made it.

    :param transform: SimpleITK transform from follow-up points to prior points.
    :param rigid: the rigid part of it (the whole of it unless deformable).
    :param kind: what was asked for.
    :param starts: name and similarity of every start that was tried, best first.
    """

    transform: sitk.Transform
    rigid: sitk.Transform
    kind: RegistrationKind
    starts: tuple[tuple[str, float], ...] = ()


def to_image(volume: Volume) -> sitk.Image:
    """The volume as a float32 SimpleITK image, clipped to the CT range."""
    import SimpleITK as sitk

    image: sitk.Image = sitk.Cast(clipped_image(volume), sitk.sitkFloat32)
    return image


def clipped_image(volume: Volume) -> sitk.Image:
    """The volume as a SimpleITK image, clipped to the CT range: 16 bits a voxel where they are of an integer type."""
    clipped = clip_hu(volume.array)
    small = clipped.astype(np.int16 if np.issubdtype(clipped.dtype, np.integer) else np.float32, copy=False)
    return array_to_image(small, volume.grid)


def array_to_image(array: NDArray[np.generic], grid: Grid) -> sitk.Image:
    """An array ``(z, y, x)`` on its grid as a SimpleITK image (bool becomes uint8)."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == np.bool_ else array)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def body_mask(image: sitk.Image, name: str = "CT") -> sitk.Image:
    """The patient without table and air: the largest thing above :data:`BODY_HU`, its holes filled slice by slice.

    :param name: which CT it is, for the message.
    :raises InputError: there is no body.
    """
    import SimpleITK as sitk

    tissue = sitk.BinaryMorphologicalOpening(sitk.Cast(image > BODY_HU, sitk.sitkUInt8), [1, 1, 0])
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(tissue), sortByObjectSize=True)
    body = sitk.GetArrayFromImage(parts) == 1
    if not body.any():
        raise InputError(f"the {name} shows no body (nothing above {BODY_HU:.0f} HU)")
    from scipy import ndimage

    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in body])
    result = sitk.GetImageFromArray(filled.astype(np.uint8))
    result.CopyInformation(image)
    return result


def resample_to_spacing(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """The image with voxels of at least ``spacing_mm`` along every axis, averaged before it is thinned out."""
    spacing = image.GetSpacing()
    # One axis after the other, the one that is thinned most first: all that follows has fewer voxels.
    for axis in sorted(range(3), key=lambda axis: spacing[axis]):
        if spacing[axis] < spacing_mm:
            image = _thinned(image, axis, spacing_mm)
    return image


def _thinned(image: sitk.Image, axis: int, spacing_mm: float) -> sitk.Image:
    """The image with voxels of ``spacing_mm`` along one axis."""
    import SimpleITK as sitk

    size, spacing = list(image.GetSize()), list(image.GetSpacing())
    smooth = image
    if spacing_mm > 1.05 * spacing[axis] and size[axis] >= SMALLEST_LEVEL:
        order = sitk.RecursiveGaussianImageFilter.ZeroOrder
        smooth = sitk.RecursiveGaussian(image, 0.4 * spacing_mm, False, order, axis)
    size[axis] = max(1, int(np.ceil(size[axis] * spacing[axis] / spacing_mm)))
    spacing[axis] = spacing_mm
    frame = image.GetOrigin(), spacing, image.GetDirection()
    return sitk.Resample(smooth, size, sitk.Transform(), sitk.sitkLinear, *frame, -1024.0)


def register(
    prior: Volume,
    followup: Volume,
    lesion: BoolArray,
    kind: RegistrationKind = "rigid",
    step: Callable[[str], None] = lambda _name: None,
    *,
    true_hu: bool = True,
) -> Registration:
    """Find where the prior's points lie in the follow-up.

    :param prior: CT of the prior visit.
    :param followup: CT of the follow-up, in the same millimetre frame.
    :param lesion: union of the segments on the prior's grid; the local steps look at its neighbourhood.
    :param kind: ``none`` trusts the scanners' coordinates; ``rigid``; ``deformable`` adds a local displacement field.
    :param step: called with the name of each step, for progress.
    :param true_hu: the follow-up's values are HU and not only on about that scale, so that the deformable step may compare
        them with the prior's; otherwise it compares local contrast.
    :raises InputError: one of the CTs shows no body; the message says which.
    """
    import SimpleITK as sitk

    if kind == "none":
        return Registration(sitk.Euler3DTransform(), sitk.Euler3DTransform(), kind)
    step("rigid start")
    rigid_levels = (COARSE_MM, MEDIUM_MM, FINE_MM)
    fixed = Pyramid(to_image(followup), rigid_levels)
    moving = Pyramid(to_image(prior), (*rigid_levels, *DEMONS_LEVELS) if kind == "deformable" else rigid_levels)
    coarse_fixed, coarse_moving = fixed.at(COARSE_MM), moving.at(COARSE_MM)
    fixed_body = body_mask(coarse_fixed, f"follow-up CT '{followup.name}'")
    moving_body = body_mask(coarse_moving, f"prior CT '{prior.name}'")
    candidates = []
    for name, start in _starts(coarse_fixed, fixed_body, moving_body):
        found = _optimise_rigid(coarse_fixed, coarse_moving, fixed_body, start, iterations=40, step_mm=4.0)
        candidates.append((similarity(coarse_fixed, coarse_moving, fixed_body, found), name, found))
    candidates.sort(key=lambda item: -item[0])
    step("rigid refinement")
    refined = [_refine(fixed, moving, start) for _score, _name, start in candidates[:2]]
    rigid = max(refined, key=lambda t: similarity(coarse_fixed, coarse_moving, fixed_body, t))
    step("rigid around the lesion")
    local = _local_region(prior, fixed.at(FINE_MM), lesion, rigid)
    rigid = _refine_locally(fixed, moving, local, rigid)
    starts = tuple((name, round(score, 4)) for score, name, _ in candidates)
    if kind == "rigid":
        return Registration(rigid, rigid, kind, starts)
    step("deformable around the lesion")
    return Registration(_deform_locally(fixed, moving, local, rigid, true_hu), rigid, kind, starts)


class Pyramid:
    """An image at the voxel sizes that the steps ask for; the image itself, which may be large, is not kept."""

    def __init__(self, image: sitk.Image, spacings_mm: Iterable[float]) -> None:
        self._levels = {spacing: resample_to_spacing(image, spacing) for spacing in dict.fromkeys(spacings_mm)}
        self._bodies: dict[float, sitk.Image] = {}

    def at(self, spacing_mm: float) -> sitk.Image:
        """The image with voxels of at least ``spacing_mm``."""
        return self._levels[spacing_mm]

    def body(self, spacing_mm: float) -> sitk.Image:
        """Mask of the body and two voxels around it in the slices' plane, at that level; found once, however many steps ask."""
        import SimpleITK as sitk

        if spacing_mm not in self._bodies:
            self._bodies[spacing_mm] = sitk.BinaryDilate(body_mask(self.at(spacing_mm)), [2, 2, 0])
        return self._bodies[spacing_mm]


def similarity(fixed: sitk.Image, moving: sitk.Image, fixed_mask: sitk.Image, transform: sitk.Transform) -> float:
    """Correlation of HU over the follow-up's body where the prior has voxels; -1 where they hardly overlap.

    HU are comparable between two CTs, so correlation says more than an information measure, and it has a scale: 1 is a
    perfect match.
    """
    import SimpleITK as sitk

    inside = sitk.GetArrayFromImage(fixed_mask) > 0
    outside = -3000.0
    warped = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, outside))
    both = inside & (warped > outside + 1)
    if both.sum() < MIN_OVERLAP * inside.sum():
        return -1.0
    a, b = sitk.GetArrayFromImage(fixed)[both], warped[both]
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))


def _starts(fixed: sitk.Image, fixed_body: sitk.Image, moving_body: sitk.Image) -> list[tuple[str, sitk.Euler3DTransform]]:
    """Starting transforms: the scanners' coordinates, the bodies' centres, and shifts along the slices.

    The body's centre says little along the slice axis when two scans cover different lengths, hence the shifts.
    """
    import SimpleITK as sitk

    def centre(mask: sitk.Image) -> NDArray[np.float64]:
        statistics = sitk.LabelShapeStatisticsImageFilter()
        statistics.Execute(mask)
        return np.asarray(statistics.GetCentroid(1))

    def make(translation: NDArray[np.float64]) -> sitk.Euler3DTransform:
        transform = sitk.Euler3DTransform()
        transform.SetCenter(fixed_centre.tolist())
        transform.SetTranslation(translation.tolist())
        return transform

    fixed_centre, moving_centre = centre(fixed_body), centre(moving_body)
    offset = moving_centre - fixed_centre
    slice_direction = np.asarray(fixed.GetDirection()).reshape(3, 3)[:, 2]
    starts = [("scanner coordinates", make(np.zeros(3)))]
    starts += [(f"body centres {z:+d} mm", make(offset + z * slice_direction)) for z in (0, -40, 40, -80, 80)]
    in_plane = offset - slice_direction * (slice_direction @ offset)
    starts.append(("body centres in plane", make(in_plane)))
    return starts


def _method(iterations: int, step_mm: float, share: float) -> sitk.ImageRegistrationMethod:
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, seed=_RANDOM_SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm, minStep=0.01, numberOfIterations=iterations, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _optimise_rigid(
    fixed: sitk.Image,
    moving: sitk.Image,
    fixed_mask: sitk.Image,
    start: sitk.Transform,
    iterations: int,
    step_mm: float,
    samples: int = 20000,
) -> sitk.Euler3DTransform:
    """Maximise mutual information from one start; a start that leaves the images without overlap is returned as it was."""
    import SimpleITK as sitk

    transform = sitk.Euler3DTransform(start)
    share = min(1.0, samples / max(1, fixed.GetNumberOfPixels()))
    method = _method(iterations, step_mm, share)
    method.SetMetricFixedMask(fixed_mask)
    # Threads add in any order; one thread and rounded parameters give the same transform, so the same contour, every time.
    method.SetNumberOfThreads(1)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # ITK: all samples map outside the moving image
        return sitk.Euler3DTransform(start)
    transform.SetParameters([round(value, _PARAMETER_DECIMALS) for value in transform.GetParameters()])
    return transform


def _refine(fixed: Pyramid, moving: Pyramid, start: sitk.Transform) -> sitk.Euler3DTransform:
    import SimpleITK as sitk

    result = sitk.Euler3DTransform(start)
    for spacing, step_mm in ((MEDIUM_MM, 2.0), (FINE_MM, 0.8)):
        images = fixed.at(spacing), moving.at(spacing)
        result = _optimise_rigid(*images, fixed.body(spacing), result, iterations=60, step_mm=step_mm, samples=60000)
    return result


def _local_region(prior: Volume, fixed: sitk.Image, lesion: BoolArray, rigid: sitk.Transform) -> sitk.Image:
    """Mask on the follow-up: the box around the rigidly carried lesion, :data:`LOCAL_MARGIN_MM` wider on every side."""
    import SimpleITK as sitk

    carried = sitk.GetArrayFromImage(
        sitk.Resample(array_to_image(lesion, prior.grid), fixed, rigid, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    )
    found = np.argwhere(carried > 0)
    region = np.zeros(carried.shape, dtype=np.uint8)
    if len(found) == 0:
        region[:] = 1
    else:
        margin = np.ceil(LOCAL_MARGIN_MM / np.asarray(fixed.GetSpacing())[::-1]).astype(int)
        low = np.maximum(found.min(0) - margin, 0)
        high = found.max(0) + margin + 1
        region[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    result = sitk.GetImageFromArray(region)
    result.CopyInformation(fixed)
    return result


def _crop(image: sitk.Image, region: sitk.Image) -> sitk.Image:
    import SimpleITK as sitk

    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(region)
    box = statistics.GetBoundingBox(1)
    cropped: sitk.Image = sitk.RegionOfInterest(image, box[3:], box[:3])
    return cropped


def _refine_locally(fixed: Pyramid, moving: Pyramid, region: sitk.Image, start: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    """Rigid again, looking only near the lesion: a limb or a shoulder moves apart from the rest of the body."""
    import SimpleITK as sitk

    near, thin_moving = _crop(fixed.at(FINE_MM), region), moving.at(FINE_MM)
    mask = _crop(fixed.body(FINE_MM), region)
    if not sitk.GetArrayViewFromImage(mask).any():
        return sitk.Euler3DTransform(start)
    found = _optimise_rigid(near, thin_moving, mask, start, iterations=60, step_mm=0.8, samples=60000)
    better = similarity(near, thin_moving, mask, found) > similarity(near, thin_moving, mask, start)
    return found if better else sitk.Euler3DTransform(start)


def _deform_locally(
    fixed: Pyramid, moving: Pyramid, region: sitk.Image, rigid: sitk.Euler3DTransform, true_hu: bool
) -> sitk.CompositeTransform:
    """A smooth displacement after the rigid transform, inside the box around the lesion; identity outside it.

    Symmetric-forces demons, coarse to fine. HU are comparable between two CTs, which is what demons ask for; where they are
    not, local contrast takes their place.
    """
    import SimpleITK as sitk

    near = Pyramid(_crop(fixed.at(FINE_MM), region), tuple(DEMONS_LEVELS))
    field = None
    for spacing, iterations in DEMONS_LEVELS.items():
        thin_fixed = near.at(spacing)
        if min(thin_fixed.GetSize()) < SMALLEST_LEVEL:
            continue
        warped = _where_known(thin_fixed, sitk.Resample(moving.at(spacing), thin_fixed, rigid, sitk.sitkLinear, _UNKNOWN_HU))
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations([FIELD_SMOOTHING_MM / s for s in thin_fixed.GetSpacing()])
        pair = _compressed(thin_fixed, true_hu), _compressed(warped, true_hu)
        if field is None:
            field = demons.Execute(*pair)
        else:
            start = sitk.Resample(field, thin_fixed, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64)
            field = demons.Execute(*pair, start)
    if field is None:
        return sitk.CompositeTransform([rigid])
    displacement = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    # A composite applies the last one first: the field moves follow-up points, the rigid part carries them to the prior.
    return sitk.CompositeTransform([rigid, displacement])


def _where_known(fixed: sitk.Image, warped: sitk.Image) -> sitk.Image:
    """The warped prior, and the follow-up itself where the prior has no voxels: what is not known must not pull."""
    import SimpleITK as sitk

    values, own = sitk.GetArrayFromImage(warped), sitk.GetArrayFromImage(fixed)
    result = sitk.GetImageFromArray(np.where(values < _UNKNOWN_HU + 1000, own, values))
    result.CopyInformation(fixed)
    return result


def _compressed(image: sitk.Image, true_hu: bool) -> sitk.Image:
    """What demons compare; every side of the image has at least :data:`SMALLEST_LEVEL` voxels."""
    import SimpleITK as sitk

    clamped: sitk.Image = sitk.Clamp(sitk.SmoothingRecursiveGaussian(image, 1.0), sitk.sitkFloat32, -400.0, 400.0)
    return clamped if true_hu else local_contrast(clamped, BODY_HU)


def in_working_frame(registration: Registration, rotation: NDArray[np.float64], origin: NDArray[np.float64]) -> Registration:
    """A transform between LPS points as a transform between points of a working frame, ``lps = rotation @ work + origin``."""
    import SimpleITK as sitk

    to_lps = sitk.AffineTransform(rotation.ravel().tolist(), origin.tolist())
    moved = sitk.CompositeTransform([to_lps.GetInverse(), registration.transform, to_lps])
    return Registration(moved, moved, registration.kind, registration.starts)


def carry_distance(mask: BoolArray, grid: Grid, onto: Grid, transform: sitk.Transform) -> NDArray[np.float32]:
    """A prior mask on the follow-up's grid as signed distance in mm: inside is at least 0, far outside is -1000.

    Interpolating the distance instead of the mask keeps the border smooth between voxels of different spacing, where
    nearest-neighbour copies would leave stairs.
    """
    import SimpleITK as sitk

    inner, start = _padded(mask, grid.spacing_zyx)
    corner = grid.to_physical(np.array([start[::-1]], dtype=np.float64))[0]
    small = Grid(inner.shape, grid.spacing, (corner[0], corner[1], corner[2]), grid.direction)
    distance = array_to_image(signed_distance(inner, grid.spacing_zyx), small)
    size = onto.shape[::-1]
    carried: NDArray[np.float32] = sitk.GetArrayFromImage(
        sitk.Resample(distance, size, transform, sitk.sitkLinear, onto.origin, onto.spacing, onto.direction, -1000.0)
    )
    return carried


def _padded(mask: BoolArray, spacing_zyx: tuple[float, ...]) -> tuple[BoolArray, list[int]]:
    """The mask's bounding box with :data:`CARRY_MARGIN_MM` around it (beyond the volume's edge if need be); its first index."""
    found = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    pad = [int(np.ceil(CARRY_MARGIN_MM / spacing)) for spacing in spacing_zyx]
    inner = mask[tuple(slice(int(f[0]), int(f[-1]) + 1) for f in found)]
    return np.pad(inner, [(p, p) for p in pad]), [int(f[0]) - p for f, p in zip(found, pad, strict=True)]


def signed_distance(mask: BoolArray, spacing_zyx: tuple[float, ...]) -> NDArray[np.float32]:
    """Distance in mm to the mask's border, positive inside; zero lies half way between an inside and an outside voxel."""
    from scipy import ndimage

    inside = ndimage.distance_transform_edt(mask, spacing_zyx)
    outside = ndimage.distance_transform_edt(~mask, spacing_zyx)
    return (inside - outside).astype(np.float32)
