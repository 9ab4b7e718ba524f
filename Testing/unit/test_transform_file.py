"""Transform files: good ones map points as they say, damaged ones are refused in one line that names the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.transform_file import read_transform
from scipy.io import savemat

Points = NDArray[np.float64]
BINARY = [".h5", ".mat"]


def mapped(transform: sitk.Transform, points: Points) -> Points:
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


HEADER = "#Insight Transform File V1.0\n#Transform 0\nTransform: "


def written(path: Path, transform: sitk.Transform) -> Path:
    sitk.WriteTransform(transform, str(path))
    return path


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".h5", ".mat"])
def test_a_transform_file_maps_points_as_it_says(tmp_path: Path, suffix: str) -> None:
    transform = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, -0.2, 0.3, (4.0, 5.0, -6.0))
    found = read_transform(written(tmp_path / f"é transform{suffix}", transform))
    points = np.random.default_rng(0).normal(0, 100, (5, 3))
    np.testing.assert_allclose(mapped(found.transform, points), mapped(transform, points), atol=1e-6)
    assert found.kind == "file"


def test_an_affine_and_a_composite_file_are_read(tmp_path: Path) -> None:
    affine = sitk.AffineTransform([1.1, 0, 0, 0, 1, 0.1, 0, 0, 0.9], [1.0, 2.0, 3.0])
    both = sitk.CompositeTransform([sitk.TranslationTransform(3, (5.0, 0.0, 0.0)), affine])
    for name, transform in (("affine.tfm", affine), ("composite.tfm", both)):
        points = np.array([[10.0, -20.0, 30.0]])
        found = read_transform(written(tmp_path / name, transform))
        np.testing.assert_allclose(mapped(found.transform, points), mapped(transform, points), atol=1e-9)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tfm", tmp_path):
        with pytest.raises(InputError, match="no such transform file") as caught:
            read_transform(path)
        assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty.tfm", ""),
        ("prose.tfm", "hello world"),
        ("header.tfm", "#Insight Transform File V1.0\n"),
        ("prose.h5", "hello world"),
        ("prose.mat", "hello world"),
        ("picture.png", "hello world"),
        ("unknown.tfm", HEADER + "WarpDriveTransform_double_3_3\nParameters: 0 0 0\nFixedParameters: 0\n"),
    ],
)
def test_an_unreadable_file_is_refused_in_one_line(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_transform(tmp_path / name)
    assert str(caught.value) == f"{name}: not a transform that SimpleITK can read"


def test_a_two_dimensional_transform_is_refused(tmp_path: Path) -> None:
    for name, transform in (("turn.tfm", sitk.Euler2DTransform()), ("affine.tfm", sitk.AffineTransform(2))):
        with pytest.raises(InputError, match="2-D transform; 3-D is needed"):
            read_transform(written(tmp_path / name, transform))


@pytest.mark.parametrize(
    "damaged",
    [
        "Euler3DTransform_double_3_3\nParameters: nan 0 0 0 0 0\nFixedParameters: 0 0 0 0\n",
        "Euler3DTransform_double_3_3\nParameters: inf 0 0 0 0 0\nFixedParameters: 0 0 0 0\n",
        "Euler3DTransform_double_3_3\nParameters: 0 0 0 0 zero 0\nFixedParameters: 0 0 0 0\n",
        "Euler3DTransform_double_3_3\nParameters: 0 0\nFixedParameters: 0 0 0 0\n",
        "AffineTransform_double_3_3\nParameters: 1 0 0 0 1 0 0 0 1\nFixedParameters: 0 0 0\n",
    ],
    ids=["nan", "inf", "word", "short rigid", "short affine"],
)
def test_damaged_numbers_are_refused_before_itk_dies_of_them(tmp_path: Path, damaged: str) -> None:
    """In a process of its own: ITK's reader ends it with a segmentation fault."""
    path = tmp_path / "damaged.tfm"
    path.write_text(HEADER + damaged)
    code = "import sys, pathlib; from P2SAMSlicerLib import transform_file as t; t.read_transform(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("P2SAMSlicerLib.errors.InputError: damaged.tfm: a ")


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_transform(path)
    message = str(caught.value)
    assert message.startswith(f"{path.name}: ")
    assert "\n" not in message
    return message


def with_parameter(transform: sitk.Transform, index: int, value: float) -> sitk.Transform:
    parameters = list(transform.GetParameters())
    parameters[index] = value
    transform.SetParameters(parameters)
    return transform


@pytest.mark.parametrize("suffix", BINARY)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_binary_parameters_that_are_no_numbers_are_refused(tmp_path: Path, suffix: str, value: float) -> None:
    for index, transform in ((0, sitk.Euler3DTransform()), (4, sitk.AffineTransform(3)), (2, sitk.TranslationTransform(3))):
        path = written(tmp_path / f"{index}{suffix}", with_parameter(transform, index, value))
        assert "not finite" in refusal(path)


@pytest.mark.parametrize("suffix", [*BINARY, ".tfm"])
def test_a_parameter_beyond_any_patient_is_refused(tmp_path: Path, suffix: str) -> None:
    rigid = sitk.Euler3DTransform()
    assert "a parameter of 1e+30" in refusal(written(tmp_path / f"far{suffix}", with_parameter(rigid, 3, 1e30)))
    # A table that was moved by metres is none of those.
    assert read_transform(written(tmp_path / f"table{suffix}", with_parameter(rigid, 3, 2500.0))).kind == "file"


@pytest.mark.parametrize("suffix", [*BINARY, ".tfm"])
@pytest.mark.parametrize("matrix", [[0.0] * 9, [1.0, 0, 0, 0, 1, 0, 1, 1, 0], [1e5, 0, 0, 0, 1, 0, 0, 0, 1]])
def test_a_singular_matrix_is_refused(tmp_path: Path, suffix: str, matrix: list[float]) -> None:
    assert "singular" in refusal(written(tmp_path / f"flat{suffix}", sitk.AffineTransform(matrix, [1.0, 2.0, 3.0])))


def test_a_mirror_is_refused_and_two_of_them_are_not(tmp_path: Path) -> None:
    mirror = sitk.AffineTransform([-1.0, 0, 0, 0, 1, 0, 0, 0, 1], [0.0, 0, 0])
    assert "mirrors" in refusal(written(tmp_path / "mirror.h5", mirror))
    assert read_transform(written(tmp_path / "twice.h5", sitk.CompositeTransform([mirror, mirror]))).kind == "file"


def test_a_mirror_beside_a_displacement_field_is_refused_and_two_of_them_are_not(tmp_path: Path) -> None:
    mirror = sitk.AffineTransform([-1.0, 0, 0, 0, 1, 0, 0, 0, 1], [0.0, 0, 0])
    once, twice = ([*mirrors, displacement(2.0)] for mirrors in ([mirror], [mirror, mirror]))
    assert "mirrors" in refusal(written(tmp_path / "mirror.h5", sitk.CompositeTransform(once)))
    assert read_transform(written(tmp_path / "twice.h5", sitk.CompositeTransform(twice))).kind == "file"


def test_a_composite_without_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.tfm"
    path.write_text(HEADER + "CompositeTransform_double_3_3\n")
    assert "composite transform without parts" in refusal(path)


def test_damage_inside_a_composite_is_found(tmp_path: Path) -> None:
    bad = with_parameter(sitk.AffineTransform(3), 0, float("nan"))
    for name, parts in (("first.h5", [bad, sitk.Euler3DTransform()]), ("last.h5", [sitk.Euler3DTransform(), bad])):
        assert "not finite" in refusal(written(tmp_path / name, sitk.CompositeTransform(parts)))
    field = sitk.CompositeTransform([sitk.Euler3DTransform(), displacement(float("nan"))])
    assert "not finite" in refusal(written(tmp_path / "field.h5", field))


def displacement(value: float) -> sitk.Transform:
    field = np.zeros((4, 5, 6, 3))
    field[1, 2, 3, 1] = value
    return sitk.DisplacementFieldTransform(sitk.GetImageFromArray(field, isVector=True))


@pytest.mark.parametrize("suffix", BINARY)
def test_a_displacement_field_with_holes_is_refused_and_a_whole_one_read(tmp_path: Path, suffix: str) -> None:
    assert "not finite" in refusal(written(tmp_path / f"holes{suffix}", displacement(float("nan"))))
    assert "1e+30" in refusal(written(tmp_path / f"far{suffix}", displacement(-1e30)))
    found = read_transform(written(tmp_path / f"whole{suffix}", displacement(7.0)))
    np.testing.assert_allclose(mapped(found.transform, np.array([[3.0, 2.0, 1.0]])), [[3.0, 9.0, 1.0]])


@pytest.mark.parametrize("suffix", BINARY)
def test_a_b_spline_with_holes_is_refused(tmp_path: Path, suffix: str) -> None:
    spline = sitk.BSplineTransformInitializer(sitk.Image([20, 20, 20], sitk.sitkFloat32), [3, 3, 3])
    assert read_transform(written(tmp_path / f"good{suffix}", spline)).kind == "file"
    assert "not finite" in refusal(written(tmp_path / f"holes{suffix}", with_parameter(spline, 5, float("nan"))))


@pytest.mark.parametrize("suffix", BINARY)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_binary_file_that_is_cut_short_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = written(tmp_path / f"cut{suffix}", sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, -0.2, 0.3, (4.0, 5.0, -6.0)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert refusal(path) == f"{path.name}: not a transform that SimpleITK can read"


def test_a_matlab_file_that_lacks_parameters_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.mat"
    savemat(path, {"Euler3DTransform_double_3_3": np.zeros((2, 1)), "fixed": np.zeros((4, 1))}, format="4")
    assert "2 parameters of 6" in refusal(path)


def test_a_two_dimensional_binary_transform_is_refused(tmp_path: Path) -> None:
    for suffix in BINARY:
        assert "2-D transform; 3-D is needed" in refusal(written(tmp_path / f"flat{suffix}", sitk.Euler2DTransform()))
