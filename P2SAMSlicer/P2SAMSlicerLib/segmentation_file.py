"""Reading and writing segmentations: 3D Slicer's ``.seg.nrrd``, and plain label maps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation
from P2SAMSlicerLib.volume_file import check_readable, read_image
from P2SAMSlicerLib.volume_header import check_header, nrrd_header, short_name, volume_suffix

#: A label map with more labels than this is an image that was given by mistake.
MOST_LABELS = 1000

COMPRESSION_LEVEL = 6

#: Label values of one byte.
MOST_LABELS_IN_LAYER = 255


def read_segmentation(path: Path | str, names: Sequence[str] | None = None) -> Segmentation:
    """Read a segmentation.

    A NRRD file with segments, as 3D Slicer saves them, gives names, colours, terminology and tags; segments may overlap
    (layers). Whether a segment is switched off in Slicer is a property of its display, which the file does not hold: every
    segment of the file is returned. Any other file is a label map: each value but 0 is a segment named ``Segment_<value>``, or,
    if it is the only one, by the file's name without its ending. Labels may be stored as floating-point numbers.

    :param path: ``.seg.nrrd``, or a label map ``.nrrd``, ``.nii.gz``, ``.nii``, ``.mha``, ``.mhd``, ``.nhdr``.
    :param names: only these segments; spares memory where a file holds a hundred. None or empty for all.
    :returns: masks ``(z, y, x)`` on the file's own grid, possibly smaller than the CT's; an empty label map has no segments.
    :raises InputError: unreadable or damaged, a grid on which millimetres mean nothing, fractional, negative or too many label
        values, no segment of a given name.
    """
    path = Path(path)
    check_readable(path, "DICOM contours are read by p2sam propagate and p2sam evaluate; save them as .seg.nrrd for this")
    if volume_suffix(path) in (".nrrd", ".nhdr") and check_header(path).segmentation:
        grid, found = _read_slicer(path)
    else:
        grid, found = _read_label_map(path)
    wanted = set(names or [segment.name for segment, _, _ in found])
    known = Segmentation(grid, tuple(segment for segment, _, _ in found), short_name(path))
    known.select(names)
    segments = tuple(
        Segment(each.name, np.ascontiguousarray(layer == value), each.color, each.terminology, each.tags)
        for each, layer, value in found
        if each.name in wanted
    )
    return Segmentation(grid, segments, known.name)


def segments_in_header(path: Path) -> list[Segment]:
    """Names and tags of a ``.seg.nrrd`` file's segments by its header alone; their masks are empty.

    :raises InputError: not a NRRD header.
    """
    fields = _segment_fields(nrrd_header(path))
    return [Segment(_unescape(each.get("Name", "")) or each.get("ID", ""), _NO_MASK, tags=_tags(each)[0]) for each in fields]


#: A segment whose mask is not made yet, the label map ``(z, y, x)`` that holds it, and its value there.
_Found = tuple[Segment, NDArray[Any], int]
_NO_MASK: BoolArray = np.zeros((0, 0, 0), dtype=np.bool_)


def _read_label_map(path: Path) -> tuple[Grid, list[_Found]]:
    array, grid, _ = read_image(path)
    if array.dtype.kind == "f":
        if any((plane != np.rint(plane)).any() for plane in array):
            raise InputError(f"{path.name}: values that are not whole numbers, so not a label map")
        array = array.astype(np.int64)
    if array.min() < 0:
        raise InputError(f"{path.name}: negative values, so not a label map (is it a CT?)")
    values = sorted(set().union(*(np.unique(plane).tolist() for plane in array)) - {0})
    if len(values) > MOST_LABELS:
        raise InputError(f"{path.name}: {len(values)} different values, so an image and not a label map")
    single = short_name(path) if len(values) == 1 else None
    return grid, [(Segment(single or f"Segment_{value}", _NO_MASK), array, value) for value in values]


def _read_slicer(path: Path) -> tuple[Grid, list[_Found]]:
    import slicerio

    header = nrrd_header(path)
    if "fractional" in str(header.get("Segmentation_MasterRepresentation", "")).lower():
        raise InputError(f"{path.name}: a fractional segmentation; save it as binary labelmap")
    try:
        content = slicerio.read_segmentation(str(path))
        # File order i, j, k (x, y, z), behind the layer axis if there is one; all arrays here are z, y, x.
        voxels = np.asarray(content["voxels"])
        layers = [layer.transpose(2, 1, 0) for layer in (voxels if voxels.ndim == 4 else voxels[None])]
        grid = _grid(np.asarray(content["ijkToLPS"], dtype=np.float64), layers[0].shape)
        fields = _segment_fields(header)
        found = []
        for index, (segment, own) in enumerate(zip(content["segments"], fields, strict=True)):
            # Slicer before 4.11 wrote neither layer nor label value: each segment had a layer of its own.
            layer = segment.get("layer", index if voxels.ndim == 4 else 0)
            found.append((_segment(segment, own), layers[layer], int(segment.get("labelValue", 1))))
    except Exception as error:  # the library fails in many ways on a damaged or unusual file
        raise InputError(f"{path.name}: cannot be read as a segmentation (damaged, or of an unusual kind)") from error
    grid.check(path.name)
    return grid, found


def _grid(ijk_to_lps: NDArray[np.float64], shape: tuple[int, ...]) -> Grid:
    spacing = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    x, y, z = (float(value) for value in spacing)
    origin = ijk_to_lps[:3, 3]
    return Grid(
        (shape[0], shape[1], shape[2]),
        (x, y, z),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple(float(value) for value in (ijk_to_lps[:3, :3] / spacing).ravel()),
    )


def _segment_fields(header: Mapping[str, Any]) -> list[dict[str, str]]:
    """``Name``, ``Tags`` and the other header fields of each segment, in the order of their numbers."""
    fields: dict[int, dict[str, str]] = {}
    for key, value in header.items():
        if match := re.match(r"Segment(\d+)_(.+)", key):
            fields.setdefault(int(match[1]), {})[match[2]] = str(value)
    return [fields[number] for number in sorted(fields)]


def _segment(parsed: Mapping[str, Any], fields: Mapping[str, str]) -> Segment:
    """A segment without its mask.

    :param parsed: what slicerio made of it; it drops every character that is not ASCII.
    :param fields: the header's own texts, complete.
    """
    from slicerio.segmentation import terminology_entry_from_string

    tags, entry = _tags(fields)
    terminology = None if entry is None else terminology_entry_from_string(entry)
    color = parsed.get("color")
    return Segment(
        _unescape(fields.get("Name", "")) or str(parsed["id"]),
        _NO_MASK,
        (color[0], color[1], color[2]) if color and len(color) == 3 else None,
        terminology,
        tags,
    )


def _tags(fields: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """A segment's tags, and apart from them its entry in a terminology."""
    tags: dict[str, str] = {}
    terminology = None
    for text in _unescape(fields.get("Tags", "")).split("|"):
        key, colon, value = text.strip().partition(":")
        if key == "TerminologyEntry":
            terminology = value
        elif colon:
            tags[key] = value
    return tags, terminology


def write_segmentation(segmentation: Segmentation, path: Path | str) -> None:
    """Write a ``.seg.nrrd`` file that 3D Slicer reads; the file appears whole or not at all.

    Segments that do not overlap share a layer. Names, colours, terminology and tags (for example
    ``DICOM.SegmentAlgorithmType`` or ``Segmentation.Status``) are written as given. The same segmentation gives the same bytes.

    :param segmentation: all masks on its grid; empty masks are written too.
    :param path: ends in ``.seg.nrrd``.
    :raises OutputError: another ending, no space, no permission, no such folder, or a text that the format cannot hold.
    :raises InputError: a mask that is not on the grid, or a grid that is not valid.
    """
    import slicerio

    path = Path(path)
    if not path.name.lower().endswith(".seg.nrrd"):
        raise OutputError(f"{path.name}: a segmentation is written as .seg.nrrd")
    grid = segmentation.grid
    grid.check(segmentation.name)
    texts = _Texts()
    voxels, places = _pack(segmentation)
    # Older versions of Slicer crop a whole layer to the extent of its first segment, hence the full extent for each.
    extent = [end for size in grid.shape[::-1] for end in (0, size - 1)]
    content = {
        "voxels": voxels,
        "ijkToLPS": grid.index_to_physical,
        "containedRepresentationNames": ["Binary labelmap"],
        "segments": [
            _description(segment, f"Segment_{number}", path.name, texts)
            | {"layer": layer, "labelValue": value, "extent": extent}
            for number, (segment, (layer, value)) in enumerate(zip(segmentation.segments, places, strict=True), 1)
        ],
    }
    with atomic_write(path) as temporary:
        slicerio.write_segmentation(str(temporary), content, compression_level=COMPRESSION_LEVEL)
        header, blank, data = temporary.read_bytes().partition(b"\n\n")
        temporary.write_bytes(texts.restore(header) + blank + data)


def _pack(segmentation: Segmentation) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """All masks in as few layers as a simple search finds.

    :returns: label values in file order ``(x, y, z)``, or ``(layer, x, y, z)`` if there are several layers; and layer and label
        value of each segment.
    :raises InputError: a mask is not on the grid.
    """
    layers = [np.zeros(segmentation.grid.shape, dtype=np.uint8)]
    used = [0]
    places = []
    for segment in segmentation.segments:
        if segment.mask.shape != segmentation.grid.shape:
            raise InputError(f"{segmentation.name}: the mask of segment '{segment.name}' is not on the segmentation's grid")
        fitting = (i for i, layer in enumerate(layers) if used[i] < MOST_LABELS_IN_LAYER and not (layer[segment.mask]).any())
        place = next(fitting, len(layers))
        if place == len(layers):
            layers.append(np.zeros(segmentation.grid.shape, dtype=np.uint8))
            used.append(0)
        used[place] += 1
        layers[place][segment.mask] = used[place]
        places.append((place, used[place]))
    if len(layers) == 1:
        return layers[0].transpose(2, 1, 0), places
    return np.stack(layers, axis=-1).transpose(3, 2, 1, 0), places


class _Texts:
    """Texts that the writing library refuses (it knows ASCII only), replaced by stand-ins until the header is written."""

    def __init__(self) -> None:
        self._by_stand_in: dict[str, str] = {}

    def ascii(self, text: str) -> str:
        """The text itself, or what stands in for it."""
        if text.isascii() and not set(text) & set("\\\r\n"):
            return text
        stand_in = f"p2sam-text-{len(self._by_stand_in):06d}-"
        self._by_stand_in[stand_in] = text
        return stand_in

    def restore(self, header: bytes) -> bytes:
        """The header with the true texts in UTF-8, as Slicer writes them, and without the time of writing."""
        for stand_in, text in self._by_stand_in.items():
            header = header.replace(stand_in.encode(), _escape(text).encode())
        return re.sub(rb"\n# on [^\n]*", b"", header)


def _escape(text: str) -> str:
    """A text as NRRD keeps it within one line."""
    return text.replace("\\", "\\\\").replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\\n")


def _unescape(text: str) -> str:
    return re.sub(r"\\(n|\\)", lambda match: "\n" if match[1] == "n" else "\\", text)


def _description(segment: Segment, identifier: str, file_name: str, texts: _Texts) -> dict[str, Any]:
    """A segment as slicerio describes it, without label value, layer and extent."""
    description: dict[str, Any] = {"id": identifier, "name": texts.ascii(segment.name)}
    if segment.color is not None:
        description["color"] = [float(value) for value in segment.color]
    if segment.terminology is not None:
        description["terminology"] = _terminology(segment, file_name, texts)
    for key, value in segment.tags.items():
        if "|" in key + value or ":" in key or key != key.strip() or not key:
            raise OutputError(
                f"{file_name}: the file cannot hold the tag '{key}' of segment '{segment.name}' ('|' or ':' in it)"
            )
    description["tags"] = {texts.ascii(key): texts.ascii(str(value)) for key, value in segment.tags.items()}
    return description


def _terminology(segment: Segment, file_name: str, texts: _Texts) -> dict[str, Any]:
    """The terminology with texts that can be written."""
    result: dict[str, Any] = {}
    for key, value in (segment.terminology or {}).items():
        words = [value] if isinstance(value, str) else list(value)
        if any(set(word) & set("~^|") for word in words):
            raise OutputError(f"{file_name}: the file cannot hold the terminology of segment '{segment.name}'")
        result[key] = texts.ascii(value) if isinstance(value, str) else [texts.ascii(word) for word in words]
    if not {"category", "type"} <= result.keys():
        raise OutputError(f"{file_name}: the terminology of segment '{segment.name}' has no category or no type")
    return result
