"""From the stored values of one DICOM CT slice to Hounsfield units: decoding, rescale, padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.codestream import stated_size
from P2SAMSlicerLib.dicom.header import number, text
from P2SAMSlicerLib.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

#: HU that padding gets: air, the lower end of the CT range.
PADDING_HU = -1024

#: Padding values between these HU may be tissue as well (water is 0), so there only padding at the border is believed.
TISSUE_HU = (-900.0, 3071.0)


def rescale(header: Dataset, path: Path, name: str, called: str | None = None) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept, 1 and 0 where absent.

    :param called: the slice's name in messages; the file's if None.
    :raises InputError: no numbers, a slope of zero, or numbers with which 16 bits become more than 32.
    """
    try:
        slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    except Exception:  # text that is no number, which the parser only notices here
        slope = intercept = math.nan
    if slope == 0 or not abs(slope) * 2**16 + abs(intercept) < 2**31:
        raise InputError(f"{name}: {called or path.name} has no usable rescale slope and intercept")
    return slope, intercept


def has_padding_inside_tissue(header: Dataset, slope: float, intercept: float) -> bool:
    """Whether the padding value lies among the HU that tissue has."""
    limits = _padding(header)
    return limits is not None and any(TISSUE_HU[0] < value * slope + intercept < TISSUE_HU[1] for value in limits)


def hounsfield_slice(
    dataset: Dataset,
    path: Path,
    scale: tuple[float, float],
    shape: tuple[int, ...],
    name: str,
    called: str | None = None,
) -> NDArray[Any]:
    """HU ``(y, x)`` of one slice; padding becomes :data:`PADDING_HU`.

    :param dataset: the whole file.
    :param path: the file, for messages and for the second decoder.
    :param scale: slope and intercept of this slice.
    :param shape: rows and columns.
    :param name: the folder or series, for messages.
    :param called: the slice's name in messages; the file's if None.
    :raises InputError: pixel data absent, damaged, in colour, or in a transfer syntax that no decoder knows.
    """
    (values,) = hounsfield_frames(dataset, path, [scale], shape, name, called)
    return values


def hounsfield_frames(
    dataset: Dataset,
    path: Path,
    scales: Sequence[tuple[float, float]],
    shape: tuple[int, ...],
    name: str,
    called: str | None = None,
) -> Iterator[NDArray[Any]]:
    """HU ``(y, x)`` of all frames of an object in stored order; see :func:`hounsfield_slice`.

    :param scales: slope and intercept of each frame.
    """
    named = f"{name}: {called or path.name}"
    if "PixelData" not in dataset:
        raise InputError(f"{named} has no pixel data")
    if number(dataset, "SamplesPerPixel") not in (None, 1):
        raise InputError(f"{named} is a colour image, not a CT slice")
    count = 0
    for stored in _decode(dataset, path, scales, shape, named):
        if stored.shape != shape or count == len(scales):
            raise InputError(f"{named} has pixel data of another size than its header says")
        yield _to_hounsfield(stored, dataset, scales[count])
        count += 1
    if count < len(scales):
        raise InputError(f"{named} has pixel data of another size than its header says")


def _to_hounsfield(stored: NDArray[Any], dataset: Dataset, scale: tuple[float, float]) -> NDArray[Any]:
    slope, intercept = scale
    whole = slope.is_integer() and intercept.is_integer()
    values: NDArray[Any] = stored.astype(np.int32 if whole else np.float64)
    values = values * (int(slope) if whole else slope) + (int(intercept) if whole else intercept)
    limits = _padding(dataset)
    if limits is not None:
        padding = (stored >= min(limits)) & (stored <= max(limits))
        if has_padding_inside_tissue(dataset, slope, intercept):
            padding = _touching_border(padding)
        values[padding] = PADDING_HU
    return values


def _decode(
    dataset: Dataset, path: Path, scales: Sequence[tuple[float, float]], shape: tuple[int, ...], named: str
) -> Iterator[NDArray[Any]]:
    """Stored values ``(y, x)`` of each frame."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    # In a damaged file it may be anything.
    syntax = UID(text(dataset.file_meta, "TransferSyntaxUID"))
    if not syntax:  # a file without preamble: the parser found the encoding by itself
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    try:
        if syntax.is_compressed:
            _check_compressed(dataset, len(scales), shape)
            if not get_decoder(syntax).is_available:
                yield from _decode_with_gdcm(path, scales)
                return
        for values, _ in get_decoder(syntax).iter_array(dataset):
            yield np.asarray(values)
    except MemoryError:
        raise
    except Exception as error:  # decoders fail in many ways
        raise InputError(f"{named} has pixel data that cannot be decoded ({_name_of(syntax)})") from error


def _name_of(syntax: Any) -> str:
    """A transfer syntax in words, where it is one; a damaged one may be anything."""
    from pydicom.uid import UID

    # The name of one that is unknown is itself.
    known = isinstance(syntax, UID) and syntax.name != str(syntax)
    return syntax.name if known else "unknown transfer syntax"


def _check_compressed(dataset: Dataset, frames: int, shape: tuple[int, ...]) -> None:
    """:raises ValueError: the values are not compressed at all, or would unpack to images of another size."""
    from pydicom.encaps import generate_frames

    if not dataset["PixelData"].is_undefined_length:
        raise ValueError("said to be compressed, but not so: what the values are is anybody's guess")
    for data in generate_frames(dataset.PixelData, number_of_frames=frames):
        if stated_size(data) not in (None, shape):
            raise ValueError("the compressed image is of another size than the header says")


def _decode_with_gdcm(path: Path, scales: Sequence[tuple[float, float]]) -> Iterator[NDArray[Any]]:
    """Stored values by way of the decoders in SimpleITK, which knows lossless JPEG where pydicom needs more packages."""
    import SimpleITK

    if len(set(scales)) > 1:
        raise ValueError("that reader applies one rescale to all frames")
    slope, intercept = scales[0]
    for values in SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO")):
        # That reader has applied the rescale already.
        yield np.rint((values.astype(np.float64) - intercept) / slope).astype(np.int64)


def _padding(header: Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value that mean padding, or None."""
    try:
        first = int(header["PixelPaddingValue"].value)
        last = int(header["PixelPaddingRangeLimit"].value) if "PixelPaddingRangeLimit" in header else first
        bits = int(header.get("BitsAllocated", 16))
        signed = int(header.get("PixelRepresentation", 0)) == 1
    except Exception:  # absent, or no numbers; the parser decodes late and fails in many ways
        return None

    def stored(value: int) -> int:
        # Some writers state the padding in the wrong signedness (63536 for -2000).
        if signed and value >= 1 << (bits - 1):
            return value - (1 << bits)
        return value + (1 << bits) if not signed and value < 0 else value

    return stored(first), stored(last)


def _touching_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those connected parts of a 2-D mask that touch the image's border."""
    from scipy.ndimage import label

    parts, _ = label(mask)
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    touching: NDArray[np.bool_] = np.isin(parts, border[border > 0])
    return touching
