"""What was encoded once is not encoded again, and is the same to the last bit."""

from __future__ import annotations

import gc
import mmap
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.models.encode_cache import EncodeCache
from stub_model import BrightnessModel

#: Room that the features of one image take.
ROW_BYTES = 7 * 64 * 64 * 4


class Recorder(BrightnessModel):
    """Remembers which images it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []

    def encode(self, images: Any) -> torch.Tensor:
        self.batches.append([int(image[0, 0, 0]) for image in images])
        return super().encode(images)


def image(number: int, size: int = 16) -> NDArray[np.uint8]:
    made = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    made[0, 0] = number
    return made


@given(batches=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), max_size=6), room=st.integers(0, 7))
def test_features_are_the_wrapped_models_whatever_is_known_and_however_little_room_there_is(
    batches: list[list[int]], room: int
) -> None:
    plain, cache = BrightnessModel(), EncodeCache(BrightnessModel(), room * ROW_BYTES)
    for batch in batches:
        images = [image(number) for number in batch]
        assert torch.equal(cache.encode(images), plain.encode(images))
        assert cache.held_bytes <= room * ROW_BYTES
    assert cache.hits + cache.encoded == sum(len(batch) for batch in batches)


def test_only_unknown_images_are_encoded_each_once_and_in_their_order() -> None:
    model = Recorder()
    cache = EncodeCache(model)
    cache.encode([image(3), image(1)])
    cache.encode([image(5), image(1), image(4), image(5), image(3)])
    assert model.batches == [[3, 1], [5, 4]]
    assert (cache.hits, cache.encoded) == (3, 4)


def test_an_image_of_the_same_bytes_and_another_shape_is_another_image() -> None:
    model = BrightnessModel()
    cache = EncodeCache(model)
    flat = np.zeros((8, 32, 3), dtype=np.uint8)
    cache.encode([flat])
    cache.encode([flat.reshape(32, 8, 3)])
    assert model.encoded == 2


def test_a_view_that_is_not_contiguous_is_known_by_its_content() -> None:
    cache = EncodeCache(BrightnessModel())
    usual = image(1)
    cache.encode([usual])
    cache.encode([np.asfortranarray(usual)])
    assert (cache.hits, cache.encoded) == (1, 1)


def test_what_was_not_asked_for_the_longest_is_forgotten_first() -> None:
    model = Recorder()
    cache = EncodeCache(model, 2 * ROW_BYTES)
    for number in (1, 2, 1, 3, 1, 2):
        cache.encode([image(number)])
    assert model.batches == [[1], [2], [3], [2]]


def test_forgotten_features_give_their_pages_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    class Watched(mmap.mmap):
        def __init__(self, *_: Any) -> None:
            pages.add(self)

    monkeypatch.setattr(mmap, "mmap", Watched)
    cache = EncodeCache(BrightnessModel(), 2 * ROW_BYTES)
    for number in range(5):
        cache.encode([image(number)])
    assert len(pages) == 2
    features = cache.encode([image(4)])
    cache.clear()
    gc.collect()
    assert not pages
    assert torch.equal(features, BrightnessModel().encode([image(4)]))


def test_where_the_system_has_no_room_features_are_not_remembered_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Recorder()
    cache = EncodeCache(model)
    cache.encode([image(1)])

    def no_room(*_: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", no_room)
    for _ in range(2):
        assert torch.equal(cache.encode([image(1), image(2)]), BrightnessModel().encode([image(1), image(2)]))
    assert model.batches == [[1], [2], [2]]
    assert cache.held_bytes == ROW_BYTES


def test_features_that_a_caller_changes_do_not_change_what_is_remembered() -> None:
    cache = EncodeCache(BrightnessModel())
    expected = cache.encode([image(1)]).clone()
    cache.encode([image(1)]).zero_()
    assert torch.equal(cache.encode([image(1)]), expected)


def test_it_forgets_on_request() -> None:
    cache = EncodeCache(BrightnessModel())
    cache.encode([image(1)])
    cache.clear()
    assert cache.held_bytes == 0
    cache.encode([image(1)])
    assert (cache.hits, cache.encoded) == (0, 2)


def test_a_model_that_fails_leaves_nothing_behind_and_may_be_asked_again() -> None:
    class Failing(BrightnessModel):
        fail = True

        def encode(self, images: Any) -> torch.Tensor:
            if self.fail:
                raise MemoryError
            return super().encode(images)

    model = Failing()
    cache = EncodeCache(model)
    with pytest.raises(MemoryError):
        cache.encode([image(1)])
    model.fail = False
    assert torch.equal(cache.encode([image(1)]), BrightnessModel().encode([image(1)]))
    assert (cache.hits, cache.encoded, cache.held_bytes) == (0, 1, ROW_BYTES)


def test_everything_else_is_the_wrapped_models() -> None:
    model = BrightnessModel(("points", "box"))
    cache = EncodeCache(model)
    assert cache.card is model.card
    assert cache.device == model.device
    assert cache.tolerance == model.tolerance
    assert cache.resized_shape((10, 20)) == model.resized_shape((10, 20))
    with pytest.raises(AttributeError):
        _ = cache.no_such_thing


def test_what_was_encoded_once_is_the_same_to_the_last_bit_ever_after() -> None:
    class Rounding(BrightnessModel):
        """Adds up the products of a batch in another order than those of an image alone, as some processors do."""

        def encode(self, images: Any) -> torch.Tensor:
            return super().encode(images) * (1.0 + 1e-6 * len(images))

    cache = EncodeCache(Rounding())
    images = [image(number) for number in range(3)]
    first = cache.encode(images)
    assert torch.equal(cache.encode(images), first)
    assert torch.equal(cache.encode(images[2:]), first[2:])
    assert (cache.hits, cache.encoded) == (4, 3)
