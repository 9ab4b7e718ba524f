"""By what a follow-up CT is known again."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.orientation import Orientation, canonical_orientation
from P2SAMSlicerLib.volume import Volume
from P2SAMSlicerLib.volume_fingerprint import SameValues, same_values, volume_fingerprint

GRID = Grid(shape=(8, 12, 10), spacing=(0.9, 0.9, 3.0), origin=(-5.0, 7.0, 2.0))


def ct(seed: int = 0) -> Volume:
    values = np.random.default_rng(seed).integers(-1024, 3000, GRID.shape)
    return Volume(values.astype(np.int16), GRID)


def stored_otherwise(volume: Volume, permutation: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same patient with other array axes."""
    array = np.flip(np.transpose(volume.array, permutation), tuple(axis for axis in range(3) if flips[axis]))
    axes = volume.grid.direction_matrix.T[::-1][list(permutation)] * np.where(flips, -1.0, 1.0)[:, None]
    first = np.zeros(3)
    for axis, flipped in zip(permutation, flips, strict=True):
        first[axis] = volume.grid.shape[axis] - 1 if flipped else 0
    dz, dy, dx = (volume.grid.spacing_zyx[axis] for axis in permutation)
    x, y, z = map(float, volume.grid.to_physical(first[::-1][None])[0])
    direction = tuple(map(float, np.stack(axes[::-1], axis=1).ravel()))
    return Volume(array, Grid(array.shape, (dx, dy, dz), (x, y, z), direction))


@given(st.permutations([0, 1, 2]), st.tuples(st.booleans(), st.booleans(), st.booleans()))
@settings(max_examples=48, deadline=None)
def test_a_ct_is_known_again_however_its_axes_are_stored(order: list[int], flips: tuple[bool, bool, bool]) -> None:
    turned = stored_otherwise(ct(), tuple(order), flips)
    back: Orientation = canonical_orientation(turned.grid)
    assert back.grid.shape == GRID.shape
    assert volume_fingerprint(turned) == volume_fingerprint(ct())


@given(st.integers(2, 5), st.integers(3, 8), st.integers(3, 6))
@settings(max_examples=30, deadline=None)
def test_one_hu_in_the_middle_makes_another_ct(z: int, y: int, x: int) -> None:
    other = ct()
    other.array[z, y, x] += 1 if other.array[z, y, x] < 2000 else -1
    assert same_values(volume_fingerprint(other), volume_fingerprint(ct())) is SameValues.NO


def test_the_kind_of_number_padding_and_metal_make_no_other_ct() -> None:
    plain = ct()
    plain.array[4, 6, 5], plain.array[4, 6, 6] = -1024, 3071
    other = Volume(plain.array.astype(np.float32), GRID)
    other.array[0], other.array[4, 6, 5], other.array[4, 6, 6] = -2000.0, -3024.0, 12000.0
    assert same_values(volume_fingerprint(other), volume_fingerprint(plain)) is SameValues.YES


def test_a_part_of_a_ct_and_an_unknown_one_cannot_be_compared() -> None:
    part = Volume(ct().array[1:], Grid((7, 12, 10), GRID.spacing, (-5.0, 7.0, 5.0)))
    assert same_values(volume_fingerprint(part), volume_fingerprint(ct())) is SameValues.NOT_COMPARABLE
    assert same_values("", volume_fingerprint(ct())) is SameValues.NOT_COMPARABLE
