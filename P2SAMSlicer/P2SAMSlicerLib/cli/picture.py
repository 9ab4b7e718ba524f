"""Reading ordinary pictures (PNG, JPEG) and masks for paper mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.volume import BoolArray

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG")

#: EXIF's tag for how the camera was held; 1 is upright.
ORIENTATION_TAG = 0x0112

#: Pillow's modes with 8 bits a channel that are pictures; the others have more bits or other meanings.
PLAIN_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"})

#: From here on a pixel of a JPEG mask is inside: compression leaves values near 0 around the border.
JPEG_INSIDE = 128


@dataclass(frozen=True)
class Picture:
    """A picture as people see it.

    :param array: ``(H, W, 3)`` uint8 RGB.
    :param turned: it was turned or mirrored, because the camera said that it must be.
    """

    array: NDArray[np.uint8]
    turned: bool


def read_picture(path: Path) -> Picture:
    """Read a picture: upright, in RGB, on black where it is transparent.

    :raises InputError: missing, unreadable, damaged, neither PNG nor JPEG, or more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    with _opened(path) as image:
        turned = image.getexif().get(ORIENTATION_TAG, 1) in range(2, 9)
        image = ImageOps.exif_transpose(image)
        if image.mode in ("LA", "RGBA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        return Picture(np.array(image.convert("RGB"), dtype=np.uint8), turned)


def read_mask(path: Path, picture: Picture) -> BoolArray:
    """Read the mask of a picture: True inside, ``(H, W)``.

    Stored values other than 0 are inside, in a JPEG those of at least 128. In a picture with a palette, the number of the
    colour counts and not the colour. Transparency does not count.

    :raises InputError: see :func:`read_picture`; another size than the picture, or nothing is inside.
    """
    from PIL import ImageOps

    with _opened(path, plain=False) as image:
        least = JPEG_INSIDE if image.format == "JPEG" else 1
        image = ImageOps.exif_transpose(image)
        if image.mode in ("LA", "RGBA"):
            image = image.convert(image.mode[:-1])
        values = np.array(image).astype(np.int64)
    mask: BoolArray = (values if values.ndim == 2 else values.max(axis=2)) >= least
    if mask.shape != picture.array.shape[:2]:
        (rows, columns), (height, width) = mask.shape, picture.array.shape[:2]
        raise InputError(f"{path.name}: the mask has {columns} x {rows} pixels, and its picture {width} x {height}")
    if not mask.any():
        raise InputError(f"{path.name}: the mask is empty")
    return mask


@contextmanager
def _opened(path: Path, *, plain: bool = True) -> Iterator[Image.Image]:
    """An open picture; faults of the file become one line.

    :param plain: it must have 8 bits a channel.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # A picture of more than 90 million pixels is no picture, or an attack.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if plain:
                    _check_mode(image, path.name)
                if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
                    raise InputError(f"{path.name}: an animation, where one picture is needed")
                image.load()
                yield image
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path.name}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path.name}: not a PNG or JPEG picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{path.name}: too many pixels for a picture") from None
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or "damaged, or cut short"
        raise InputError(f"{path.name}: cannot be read ({str(reason).lower()})") from error


def _check_mode(image: Any, name: str) -> None:
    if image.mode not in PLAIN_MODES:
        raise InputError(
            f"{name}: more than 8 bits a channel (Pillow's mode {image.mode}); choose a window and save it with 8 bits"
        )
