"""Volume files: every value and every millimetre as stored, or refused in one line."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import P2SAMSlicerLib
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import Volume
from P2SAMSlicerLib.volume_file import WRITABLE_SUFFIXES, read_volume, write_volume
from P2SAMSlicerLib.volume_header import short_name
from scipy.spatial.transform import Rotation

LIBRARY = Path(P2SAMSlicerLib.__file__).parents[1]

#: NIfTI keeps its geometry in single precision.
GEOMETRY_TOLERANCE = {".nii": 1e-4, ".nii.gz": 1e-4, ".nrrd": 1e-9, ".mha": 1e-9}


def make_volume(dtype: Any = np.int16, grid: Grid | None = None) -> Volume:
    grid = grid or Grid((3, 4, 5), (0.7, 0.8, 3.0), (-123.25, 98.5, 1000.125))
    values = np.random.default_rng(1).integers(-100 if np.dtype(dtype).kind != "u" else 0, 100, grid.shape)
    return Volume(values.astype(dtype), grid, "ct")


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        read_volume(path)
    message = str(raised.value)
    assert message.startswith(f"{path.name}: ")
    assert "\n" not in message
    assert str(path.parent) not in message
    return message


def write_with_itk(path: Path, array: NDArray[Any], vector: bool = False) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=vector), str(path))
    return path


def edit(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


def edit_nifti(path: Path, *edits: tuple[int, str, tuple[float, ...]]) -> Path:
    """A NIfTI file of 5 x 4 x 3 voxels of 1 x 2 x 3 mm, with header fields overwritten at these offsets."""
    write_volume(make_volume(grid=Grid((3, 4, 5), (1.0, 2.0, 3.0))), path)
    data = bytearray(path.read_bytes())
    for offset, code, values in edits:
        struct.pack_into("<" + code, data, offset, *values)
    path.write_bytes(bytes(data))
    return path


CODES, SROW, PIXDIM, DIM, UNITS = 252, 280, 80, 40, 123
SFORM_ONLY = (CODES, "2h", (0, 1))
STRAIGHT = (-1.0, 0.0, 0.0, 0.0, 0.0, -2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0)


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (np.int16, np.int16),
        (np.int8, np.int16),
        (np.uint8, np.int16),
        (np.bool_, np.int16),
        (np.uint16, np.int32),
        (np.int32, np.int32),
        (np.uint32, np.int32),
        (np.int64, np.int32),
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float32),
    ],
)
def test_values_survive_writing_and_reading(tmp_path: Path, suffix: str, stored: Any, read: Any) -> None:
    volume = make_volume(stored)
    write_volume(volume, tmp_path / f"a{suffix}")
    back = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.array.dtype == read
    assert back.array.flags.c_contiguous
    assert back.array.flags.writeable
    assert back.name == "a"
    assert back.warnings == ()
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    mirrored=st.booleans(),
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
)
def test_any_oblique_geometry_survives_writing_and_reading(
    tmp_path: Path,
    suffix: str,
    angles: tuple[float, float, float],
    mirrored: bool,
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
) -> None:
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.array([1, 1, -1 if mirrored else 1])
    volume = make_volume(grid=Grid((3, 4, 5), spacing, origin, tuple(matrix.ravel().tolist())))
    write_volume(volume, tmp_path / f"a{suffix}")
    back = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.grid.corners(), volume.grid.corners(), atol=GEOMETRY_TOLERANCE[suffix] * 3)
    np.testing.assert_allclose(back.grid.spacing, spacing, rtol=1e-5)


@pytest.mark.parametrize("suffix", [*WRITABLE_SUFFIXES, ".NII.GZ", ".NII", ".NRRD", ".MHA"])
def test_strange_and_very_long_paths_work(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path.joinpath("Übung 患者 'x' #1", *["d" * 200] * 6)
    folder.mkdir(parents=True)
    path = folder / f"été {'n' * 200}{suffix}"
    volume = make_volume()
    write_volume(volume, path)
    np.testing.assert_array_equal(read_volume(path).array, volume.array)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_files_with_a_separate_header_are_read_but_not_written(tmp_path: Path, suffix: str) -> None:
    volume = make_volume()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume.array), str(tmp_path / f"a{suffix}"), True)
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, volume.array)
    with pytest.raises(OutputError, match=r"^b\.\w+: cannot write this kind of file"):
        write_volume(volume, tmp_path / f"b{suffix}")
    next(path for path in tmp_path.iterdir() if path.suffix != suffix).unlink()
    refusal(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("prior_ct.nii.gz", "prior_ct"),
        ("ct.2024.01.nrrd", "ct.2024.01"),
        ("A.NII", "A"),
        ("x.seg.nrrd", "x"),
        (".nrrd", ".nrrd"),
        ("series", "series"),
    ],
)
def test_the_short_name_is_the_file_name_without_its_ending(path: str, name: str) -> None:
    assert short_name(Path("folder") / path) == name


def test_a_file_in_ras_is_turned_to_lps(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    write_volume(make_volume(grid=Grid((3, 4, 5), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))), path)
    edit(path, b"left-posterior-superior", b"right-anterior-superior")
    grid = read_volume(path).grid
    assert grid.origin == (-10.0, -20.0, 30.0)
    np.testing.assert_allclose(grid.direction_matrix, np.diag([-1, -1, 1]))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_series_of_one_volume_is_that_volume(tmp_path: Path, suffix: str) -> None:
    array = make_volume().array
    volume = read_volume(write_with_itk(tmp_path / f"a{suffix}", array[None]))
    np.testing.assert_array_equal(volume.array, array)
    assert volume.grid.same_as(Grid(array.shape))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("shape", "vector", "words"),
    [
        ((2, 3, 4, 5), False, "a 4-D series of 2 volumes"),
        ((4, 5), False, "a 2-D image"),
        ((3, 4, 5, 3), True, "more than one value a voxel"),
    ],
)
def test_what_is_not_one_scalar_volume_is_refused(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], vector: bool, words: str
) -> None:
    assert words in refusal(write_with_itk(tmp_path / f"a{suffix}", np.zeros(shape, np.uint8), vector))


def test_a_complex_image_is_refused(tmp_path: Path) -> None:
    assert "complex" in refusal(write_with_itk(tmp_path / "a.nii", np.zeros((3, 4, 5), np.complex64)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_voxels_that_are_no_numbers_are_refused_with_their_count(tmp_path: Path, suffix: str, value: float) -> None:
    array = np.zeros((3, 3, 3), np.float32)
    array[0, 0, 0] = array[2, 2, 2] = value
    assert "2 voxels are NaN or infinite" in refusal(write_with_itk(tmp_path / f"a{suffix}", array))
    with pytest.raises(InputError, match=r"^ct: 2 voxels are NaN or infinite$"):
        write_volume(Volume(array, Grid((3, 3, 3)), "ct"), tmp_path / f"b{suffix}")


@pytest.mark.parametrize(("dtype", "value"), [(np.uint32, 2**31), (np.int64, -(2**40)), (np.float64, 1e300)])
def test_values_that_no_plain_type_holds_are_refused(tmp_path: Path, dtype: Any, value: float) -> None:
    volume = make_volume(dtype)
    volume.array[1, 1, 1] = value
    write_volume(volume, tmp_path / "a.nrrd")
    assert "values too large" in refusal(tmp_path / "a.nrrd")


def test_missing_unknown_and_empty_files_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.nii.gz") == "a.nii.gz: no such file or folder"
    assert "no such file" in refusal(tmp_path / "nowhere" / "a.nrrd")
    (tmp_path / "b.png").write_bytes(b"x")
    assert "not a known kind of volume file" in refusal(tmp_path / "b.png")
    (tmp_path / "c.dcm").write_bytes(b"\0" * 128 + b"DICM")
    assert "folder with all slices" in refusal(tmp_path / "c.dcm")
    assert "cannot be opened" in refusal(tmp_path / ("n" * 300 + ".nrrd"))


@pytest.mark.parametrize("suffix", [*WRITABLE_SUFFIXES, ".nhdr", ".mhd"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello\nworld\n" * 100, b"\0" * 1000, b"NRRD0004\n", b"NRRD0004\ntype: short\n\n", b"ObjectType = Image\n"],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"a{suffix}").write_bytes(content)
    refusal(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
@pytest.mark.parametrize("keep", [0.03, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"a{suffix}"
    grid = Grid((20, 40, 50))
    write_volume(Volume(np.random.default_rng(0).integers(-999, 999, grid.shape).astype(np.int16), grid), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    refusal(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    grid = Grid((20, 40, 50))
    write_volume(Volume(np.random.default_rng(0).integers(-999, 999, grid.shape).astype(np.int16), grid), path)
    data = bytearray(path.read_bytes())
    data[-3000] ^= 0xFF
    path.write_bytes(bytes(data))
    refusal(path)


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([(PIXDIM + 8, "f", (0.0,))], "spacing in the header (1 x 2 x 0 mm)"),
        ([(PIXDIM, "f", (-1.0,))], "spacing in the header (-1 x 2 x 3 mm)"),
        ([(PIXDIM, "f", (float("nan"),)), (CODES, "2h", (0, 0))], "spacing in the header"),
        ([(PIXDIM, "f", (float("inf"),))], "spacing in the header"),
        ([SFORM_ONLY, (SROW + 4, "f", (0.5,))], "not orthonormal"),
        ([(SROW + 4, "f", (0.5,))], "not orthonormal"),
        ([SFORM_ONLY, (SROW + 4, "f", (0.02,))], "not orthonormal"),
        ([SFORM_ONLY, (SROW, "4f", (0.0, 0.0, 0.0, 0.0))], "not finite, or zero"),
        ([SFORM_ONLY, (SROW, "f", (float("nan"),))], "not finite, or zero"),
        ([SFORM_ONLY, (SROW, "f", (-5.0,))], "contradicts itself"),
        ([(UNITS, "b", (1,))], "millimetres"),
        ([(DIM, "h", (9,))], "dimensions"),
        ([(DIM + 2, "h", (-5,))], "dimensions"),
        ([(DIM + 6, "h", (4,))], "cut short"),
        ([(0, "i", (540,))], "NIfTI-2"),
        ([(344, "4s", (b"ni1\0",))], "not a NIfTI file"),
    ],
)
def test_nifti_headers_that_itk_would_repair_in_silence_are_refused(tmp_path: Path, edits: Any, words: str) -> None:
    assert words in refusal(edit_nifti(tmp_path / "a.nii", *edits))


def test_a_nifti_file_is_read_by_its_sform(tmp_path: Path) -> None:
    moved = (1.0, 0.0, 0.0, 7.0, 0.0, 2.0, 0.0, 8.0, 0.0, 0.0, 3.0, 9.0)
    grid = read_volume(edit_nifti(tmp_path / "a.nii", SFORM_ONLY, (SROW, "12f", moved))).grid
    assert grid.origin == (-7.0, -8.0, 9.0)
    np.testing.assert_allclose(grid.direction_matrix, np.diag([-1, -1, 1]))


def test_a_nifti_file_without_orientation_is_told(tmp_path: Path) -> None:
    volume = read_volume(edit_nifti(tmp_path / "a.nii", (CODES, "2h", (0, 0))))
    assert len(volume.warnings) == 1
    assert "no orientation" in volume.warnings[0]


def test_a_big_endian_nifti_file_is_read(tmp_path: Path) -> None:
    path = edit_nifti(tmp_path / "a.nii")
    expected = read_volume(path)
    data = bytearray(path.read_bytes())
    fields = [(0, "i"), (40, "8h"), (68, "4h"), (76, "8f"), (108, "3f"), (252, "2h"), (256, "18f")]
    for offset, code in fields:
        struct.pack_into(">" + code, data, offset, *struct.unpack_from("<" + code, data, offset))
    data[352:] = np.frombuffer(data[352:], "<i2").astype(">i2").tobytes()
    path.write_bytes(bytes(data))
    np.testing.assert_array_equal(read_volume(path).array, expected.array)
    assert read_volume(path).grid == expected.grid


def test_scaled_nifti_values_are_scaled(tmp_path: Path) -> None:
    path = edit_nifti(tmp_path / "a.nii")
    stored = read_volume(path).array
    volume = read_volume(edit_nifti(path, (112, "2f", (2.0, -1024.0))))
    np.testing.assert_array_equal(volume.array, stored * 2.0 - 1024)


def test_a_nifti_file_that_is_not_compressed_under_a_name_that_says_so_is_read(tmp_path: Path) -> None:
    path = edit_nifti(tmp_path / "a.nii")
    expected = read_volume(path).array
    (tmp_path / "b.nii.gz").write_bytes(path.read_bytes())
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(path.read_bytes()[:200]) + gzip.compress(path.read_bytes()[200:]))
    for name in ("b.nii.gz", "c.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, expected)


DIRECTIONS = b"space directions: (1,0,0) (0,2,0) (0,0,3)"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (DIRECTIONS, b"space directions: (1,0.5,0) (0,2,0) (0,0,3)", "not orthonormal"),
        (DIRECTIONS, b"space directions: (1,0.005,0) (0,2,0) (0,0,3)", "not orthonormal"),
        (DIRECTIONS, b"space directions: (1,0,0) (0,2,0) (0,0,0)", "(1 x 2 x 0 mm)"),
        (DIRECTIONS, b"space directions: (1,0,0) (1,0,0) (0,0,3)", "not orthonormal"),
        (DIRECTIONS, b"space directions: (1,0,0) (0,2,0) (0,0,nan)", "is not positive"),
        (DIRECTIONS, b"space directions: (1,0,0) (0,2,0) none", "is not positive"),
        (DIRECTIONS + b"\n", b"", "no voxel spacing"),
        (b"space: left-posterior-superior", b"space: scanner-xyz", "not one of the patient's"),
        (b"sizes: 5 4 3", b"sizes: 5 4", ""),
    ],
)
def test_nrrd_headers_that_itk_would_repair_in_silence_are_refused(tmp_path: Path, old: bytes, new: bytes, words: str) -> None:
    write_volume(make_volume(grid=Grid((3, 4, 5), (1.0, 2.0, 3.0))), tmp_path / "a.nrrd")
    assert words in refusal(edit(tmp_path / "a.nrrd", old, new))


def test_a_nrrd_file_with_spacings_only_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    write_volume(make_volume(grid=Grid((3, 4, 5), (1.0, 2.0, 3.0))), path)
    edit(path, b"space: left-posterior-superior\n", b"")
    edit(path, b"space origin: (0,0,0)\n", b"")
    edit(path, DIRECTIONS, b"spacings: 1 2 3")
    volume = read_volume(path)
    assert volume.grid.spacing == (1.0, 2.0, 3.0)
    assert "no orientation" in volume.warnings[0]
    edit(path, b"spacings: 1 2 3", b"spacings: 1 2 nan")
    assert "(1 x 2 x nan mm) is not positive" in refusal(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"ElementSpacing = 1 2 3", b"ElementSpacing = 1 2 0", "(1 x 2 x 0 mm)"),
        (b"ElementSpacing = 1 2 3", b"ElementSpacing = 1 2 -3", "(1 x 2 x -3 mm)"),
        (b"ElementSpacing = 1 2 3", b"ElementSpacing = 1 2 nan", "is not positive"),
        (b"ElementSpacing = 1 2 3", b"ElementSpacing = 1 2 x", "is not positive"),
        (b"ElementSpacing = 1 2 3\n", b"", "no voxel spacing"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0.5 0 0 1 0 0 0 1", "not orthonormal"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0 0 1 0 0 0 0 1", "not orthonormal"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 0 0 0 0 0 0 0 0 0", "not finite, or zero"),
    ],
)
def test_metaimage_headers_that_itk_would_repair_in_silence_are_refused(
    tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    write_volume(make_volume(grid=Grid((3, 4, 5), (1.0, 2.0, 3.0))), tmp_path / "a.mha")
    assert words in refusal(edit(tmp_path / "a.mha", old, new))


def test_a_segmentation_is_not_taken_for_a_ct(tmp_path: Path) -> None:
    write_volume(make_volume(), tmp_path / "a.seg.nrrd")
    edit(tmp_path / "a.seg.nrrd", b"kinds:", b"Segment0_Name:=GTV\nkinds:")
    assert "a segmentation, where a CT volume is needed" in refusal(tmp_path / "a.seg.nrrd")


def test_itk_stays_silent_about_what_is_said_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refusal(edit_nifti(tmp_path / "a.nii", SFORM_ONLY, (SROW, "f", (-5.0,))))
    assert capfd.readouterr() == ("", "")
    process: Any = SimpleITK.ProcessObject
    assert process.GetGlobalWarningDisplay()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX file size limits")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    code = """
        import resource, signal, sys
        import numpy as np
        from pathlib import Path
        from P2SAMSlicerLib.errors import OutputError
        from P2SAMSlicerLib.geometry import Grid
        from P2SAMSlicerLib.volume import Volume
        from P2SAMSlicerLib.volume_file import WRITABLE_SUFFIXES, write_volume
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        grid = Grid((20, 64, 64))
        volume = Volume(np.random.default_rng(0).integers(-999, 999, grid.shape).astype(np.int16), grid)
        for suffix in WRITABLE_SUFFIXES:
            try:
                write_volume(volume, Path(sys.argv[1]) / f"a{suffix}")
            except OutputError as error:
                print(error)
    """
    for suffix in WRITABLE_SUFFIXES:
        (tmp_path / f"a{suffix}").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
    )
    assert done.stdout.splitlines() == [
        f"a{suffix}: could not be written completely (is there enough space?)" for suffix in WRITABLE_SUFFIXES
    ], done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"a{suffix}": "old" for suffix in WRITABLE_SUFFIXES}


def test_a_missing_folder_and_an_invalid_grid_are_refused_on_writing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^a\.nrrd: cannot be written \("):
        write_volume(make_volume(), tmp_path / "nowhere" / "a.nrrd")
    with pytest.raises(InputError, match="not positive"):
        write_volume(make_volume(grid=Grid((3, 4, 5), (1.0, 0.0, 1.0))), tmp_path / "a.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_every_real_visit_can_be_read(shared_data: Path) -> None:
    paths = sorted(shared_data.glob("visits/*/prior_ct.nii.gz"))
    assert paths
    for path in paths[:4]:
        volume = read_volume(path)
        assert volume.name == "prior_ct"
        assert volume.warnings == ()
        assert volume.array.dtype in (np.int16, np.float32)
        assert volume.array.min() < -900
