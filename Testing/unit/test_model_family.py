"""Encode and batched decode equal segment-anything's own SamPredictor, on a small SAM with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import out_of_memory
from P2SAMSlicerLib.models import sam, sam_family
from P2SAMSlicerLib.models.batch_size import BatchSize
from P2SAMSlicerLib.models.preprocessing import Preprocessing
from P2SAMSlicerLib.models.protocol import Decoded, ModelCard, PromptSet
from P2SAMSlicerLib.models.sam_family import SamFamilyModel

pytest.importorskip("segment_anything", reason="segment-anything is not installed")
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

SIZE, CELLS, CHANNELS = 256, 16, 64
SIDE = 4 * CELLS
SHAPE = (100, 150)


def build_small_sam() -> Any:
    """SAM with every kind of layer that the large ones have: windowed and global attention, relative positions."""
    torch.manual_seed(0)
    network = Sam(
        image_encoder=ImageEncoderViT(
            img_size=SIZE,
            embed_dim=32,
            depth=2,
            num_heads=2,
            out_chans=CHANNELS,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=6,
            global_attn_indexes=(1,),
        ),
        prompt_encoder=PromptEncoder(CHANNELS, (CELLS, CELLS), (SIZE, SIZE), mask_in_chans=16),
        mask_decoder=MaskDecoder(
            transformer_dim=CHANNELS,
            transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, num_heads=4, mlp_dim=96),
            iou_head_hidden_dim=32,
        ),
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "pos" in name:  # Zero at first: a fault in them would go unseen.
                parameter.normal_(std=0.3)
    return network.eval()


def random_image(seed: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def small_sam() -> Any:
    return build_small_sam()


@pytest.fixture(scope="module")
def model(small_sam: Any) -> SamFamilyModel:
    card = ModelCard("small", "small", SIZE, CELLS, ("points", "box", "mask"), "", "random", "MIT")
    network = copy.deepcopy(small_sam).requires_grad_(False)
    sam.prepare_for_inference(network, torch.device("cpu"))
    return SamFamilyModel(card, network, Preprocessing(SIZE), torch.device("cpu"), encode_chunk=2)


@pytest.fixture(scope="module")
def predictor(small_sam: Any) -> Any:
    predictor = SamPredictor(small_sam)
    predictor.set_image(random_image(0))
    return predictor


@pytest.fixture(scope="module")
def features(model: SamFamilyModel) -> torch.Tensor:
    return model.encode([random_image(seed) for seed in range(5)])


def mask_logits(seed: int) -> torch.Tensor:
    return torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 5


POINTS = np.array([[10, 20], [140.5, 3.25], [77, 99]], dtype=np.float32)
LABELS = np.array([1, 0, 1])
BOX = np.array([5.5, 10, 120, 91.75], dtype=np.float32)

PROMPTS = {
    "nothing": PromptSet(),
    "one point": PromptSet(POINTS[:1], LABELS[:1]),
    "a negative point": PromptSet(POINTS[1:2], LABELS[1:2]),
    "three points": PromptSet(POINTS, LABELS),
    "a repeated point": PromptSet(POINTS[[0, 0, 1]], LABELS[[0, 0, 1]]),
    "a box": PromptSet(box=BOX),
    "points and box": PromptSet(POINTS, LABELS, BOX),
    "logits": PromptSet(mask_logits=mask_logits(1)),
    "point and logits": PromptSet(POINTS[:1], LABELS[:1], mask_logits=mask_logits(2)),
    "everything": PromptSet(POINTS, LABELS, BOX, mask_logits(3)),
    "a point outside": PromptSet(np.array([[-30, 400]], dtype=np.float32), np.array([1])),
}


def predict(predictor: Any, prompt: PromptSet, multimask: bool) -> tuple[Any, Any, Any]:
    return predictor.predict(  # type: ignore[no-any-return]
        prompt.points,
        prompt.labels,
        prompt.box,
        None if prompt.mask_logits is None else prompt.mask_logits.numpy(),
        multimask_output=multimask,
        return_logits=True,
    )


def assert_close(actual: torch.Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=0, atol=tolerance)


def row(decoded: Decoded, index: int) -> Decoded:
    return Decoded(decoded.logits[index : index + 1], decoded.predicted_iou[index : index + 1])


@pytest.mark.parametrize("shape", [(100, 150), (150, 100), (256, 256), (300, 517), (33, 31)])
def test_encoding_equals_sam_predictors(small_sam: Any, model: SamFamilyModel, shape: tuple[int, int]) -> None:
    image = random_image(3, shape)
    predictor = SamPredictor(small_sam)
    predictor.set_image(image)
    assert_close(model.encode([image]), predictor.get_image_embedding())
    assert model.resized_shape(shape) == predictor.input_size


def test_a_batch_encodes_as_its_images_do_alone(model: SamFamilyModel, features: torch.Tensor) -> None:
    assert features.shape == (5, CHANNELS, CELLS, CELLS)
    assert features.dtype == torch.float32
    for seed in range(5):
        assert_close(model.encode([random_image(seed)]), features[seed : seed + 1])
    # The images do differ, so an exchange of rows could not pass.
    assert (features[0] - features[1]).abs().max() > 0.1


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("name", PROMPTS)
def test_decoding_equals_sam_predictors(
    model: SamFamilyModel, predictor: Any, features: torch.Tensor, name: str, multimask: bool
) -> None:
    masks, iou, low = predict(predictor, PROMPTS[name], multimask)
    decoded = model.decode(features[:1], [PROMPTS[name]], SHAPE, multimask=multimask)
    assert decoded.logits.shape == (1, 3 if multimask else 1, SIDE, SIDE)
    assert_close(decoded.logits[0], low)
    assert_close(decoded.predicted_iou[0], iou)
    assert_close(model.upscale(decoded.logits, SHAPE)[0], masks)


def test_mixed_prompt_sets_of_different_images_decode_as_they_do_alone(model: SamFamilyModel, features: torch.Tensor) -> None:
    prompts = [PROMPTS[name] for name in PROMPTS for _ in range(2)]
    order = np.random.default_rng(5).permutation(len(prompts))
    prompts = [prompts[index] for index in order]
    images = [index % 5 for index in range(len(prompts))]
    together = model.decode(features[images], prompts, SHAPE, multimask=True)
    for index, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        alone = model.decode(features[image : image + 1], [prompt], SHAPE, multimask=True)
        assert_close(row(together, index).logits, alone.logits)
        assert_close(row(together, index).predicted_iou, alone.predicted_iou)


def test_shared_features_equal_repeated_ones(model: SamFamilyModel, features: torch.Tensor) -> None:
    prompts = list(PROMPTS.values())
    shared = model.decode(features[2:3], prompts, SHAPE)
    repeated = model.decode(features[2:3].repeat(len(prompts), 1, 1, 1), prompts, SHAPE)
    assert_close(shared.logits, repeated.logits)


def test_more_prompt_sets_than_one_chunk_come_back_in_order(
    model: SamFamilyModel, features: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [PromptSet(np.array([[x, x / 2]], dtype=np.float32), np.array([1])) for x in range(0, 140, 20)]
    whole = model.decode(features[:1], prompts, SHAPE)
    monkeypatch.setattr(model, "_decode_batch", BatchSize(3))
    chunked = model.decode(features[:1], prompts, SHAPE)
    assert_close(chunked.logits, whole.logits)
    assert (whole.logits[0] - whole.logits[-1]).abs().max() > 1e-3


class _Limited(torch.nn.Module):
    """A network's part with an artificial limit: more rows than that and the memory is used up."""

    def __init__(self, part: Any, most: int, rows: Callable[..., int]) -> None:
        super().__init__()
        self.part, self.most, self.rows = part, most, rows
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("part"), name)

    def forward(self, *values: Any, **named: Any) -> Any:
        self.asked.append(self.rows(*values, **named))
        if self.asked[-1] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return self.part(*values, **named)


def limited(small_sam: Any, encoder: int = 99, decoder: int = 99, chunk: int = 8) -> SamFamilyModel:
    network = copy.deepcopy(small_sam).requires_grad_(False)
    sam.prepare_for_inference(network, torch.device("cpu"))
    network.image_encoder = _Limited(network.image_encoder, encoder, len)
    network.mask_decoder = _Limited(network.mask_decoder, decoder, lambda **named: len(named["dense_prompt_embeddings"]))
    card = ModelCard("small", "small", SIZE, CELLS, ("points", "box", "mask"), "", "random", "MIT")
    return SamFamilyModel(card, network, Preprocessing(SIZE), torch.device("cpu"), encode_chunk=chunk)


def test_a_device_that_holds_fewer_images_gets_fewer_and_is_not_asked_for_more_again(
    small_sam: Any, features: torch.Tensor
) -> None:
    model = limited(small_sam, encoder=2)
    images = [random_image(seed) for seed in range(5)]
    assert_close(model.encode(images), features)
    assert_close(model.encode(images), features)
    # 5 and then half of 5 is 2, which fits: two, two, one; and the same again without another trial.
    assert model._network.image_encoder.asked == [5, 2, 2, 1, 2, 2, 1]


def test_a_device_that_holds_fewer_prompt_sets_gets_fewer(
    small_sam: Any, model: SamFamilyModel, features: torch.Tensor
) -> None:
    prompts = [PromptSet(np.array([[x, x / 2]], dtype=np.float32), np.array([1])) for x in range(0, 140, 20)]
    small = limited(small_sam, decoder=1)
    answer = small.decode(features[:1], prompts, SHAPE)
    assert_close(answer.logits, model.decode(features[:1], prompts, SHAPE).logits)
    assert small._network.mask_decoder.asked == [4, 2] + [1] * 7


def test_memory_that_is_not_enough_for_one_image_is_said(small_sam: Any) -> None:
    model = limited(small_sam, encoder=0)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        model.encode([random_image(0), random_image(1)])
    assert "not enough memory on the device" in str(out_of_memory(caught.value))
    assert model._network.image_encoder.asked == [2, 1]


def test_another_error_than_memory_is_not_tried_again(small_sam: Any) -> None:
    model = limited(small_sam)

    def broken(_: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    model._network.image_encoder.forward = broken
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        model.encode([random_image(0), random_image(1)])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_of_the_encoder_alone_and_near_float32(
    small_sam: Any, features: torch.Tensor, precision: str
) -> None:
    network = copy.deepcopy(small_sam).requires_grad_(False)
    sam.prepare_for_inference(network, torch.device("cpu"))
    card = ModelCard("small", "small", SIZE, CELLS, ("points",), "", "random", "MIT", precision=precision)
    half = SamFamilyModel(card, network, Preprocessing(SIZE), torch.device("cpu"))
    rough = half.encode([random_image(seed) for seed in range(5)])
    assert rough.dtype == torch.float32
    difference = float((rough - features).norm() / features.norm())
    assert 1e-5 < difference < 0.05
    prompts = [PROMPTS["one point"]]
    assert half.decode(rough[:1], prompts, SHAPE).logits.dtype == torch.float32


def test_padding_with_label_minus_one_is_not_neutral_which_is_why_sets_are_grouped(predictor: Any) -> None:
    _, _, alone = predictor.predict(POINTS[:1], LABELS[:1], multimask_output=False)
    _, _, padded = predictor.predict(POINTS, np.array([1, -1, -1]), multimask_output=False)
    assert np.abs(alone - padded).max() > 1e-3


@pytest.mark.parametrize("shape", [(100, 150), (150, 100), (256, 256), (700, 300)])
def test_upscaling_equals_sams_postprocessing(small_sam: Any, model: SamFamilyModel, shape: tuple[int, int]) -> None:
    low = torch.randn(3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected = small_sam.postprocess_masks(low, model.resized_shape(shape), shape)
    assert_close(model.upscale(low, shape), expected, tolerance=0)


def test_upscaling_in_chunks_changes_nothing(model: SamFamilyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    low = torch.randn(5, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    whole = model.upscale(low, SHAPE)
    monkeypatch.setattr(sam_family, "UPSCALE_CHUNK", 2)
    torch.testing.assert_close(model.upscale(low, SHAPE), whole, rtol=0, atol=0)


def test_no_prompt_set_gives_an_empty_answer(model: SamFamilyModel, features: torch.Tensor) -> None:
    decoded = model.decode(features[:1], [], SHAPE)
    assert decoded.logits.shape == (0, 1, SIDE, SIDE)
    assert model.upscale(decoded.logits, SHAPE).shape == (0, 1, *SHAPE)


def test_features_kept_in_half_precision_are_accepted(model: SamFamilyModel, features: torch.Tensor) -> None:
    decoded = model.decode(features[:1].bfloat16(), [PROMPTS["a box"]], SHAPE)
    assert decoded.logits.dtype == torch.float32
    assert_close(decoded.logits, model.decode(features[:1], [PROMPTS["a box"]], SHAPE).logits, tolerance=0.2)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3)),
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((8, 8, 1), dtype=np.uint8),
        np.zeros((0, 8, 3), dtype=np.uint8),
    ],
)
def test_an_image_of_another_type_or_shape_is_refused(model: SamFamilyModel, image: Any) -> None:
    with pytest.raises(ValueError, match="uint8"):
        model.encode([image])


def test_images_of_different_sizes_and_no_image_are_refused(model: SamFamilyModel) -> None:
    with pytest.raises(ValueError, match="one size"):
        model.encode([random_image(0), random_image(0, (50, 50))])
    with pytest.raises(ValueError, match="no image"):
        model.encode([])


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        (PromptSet(POINTS, LABELS[:2]), "3 points with 2 labels"),
        (PromptSet(POINTS), "3 points with 0 labels"),
        (PromptSet(POINTS, np.array([1, -1, 0])), "label"),
        (PromptSet(POINTS * np.float32(np.nan), LABELS), "finite"),
        (PromptSet(np.zeros((2, 3), dtype=np.float32), LABELS[:2]), "points"),
        (PromptSet(box=np.zeros((1, 4), dtype=np.float32)), "box"),
        (PromptSet(box=np.array([0, 0, np.inf, 1], dtype=np.float32)), "box"),
        (PromptSet(mask_logits=torch.zeros(SIDE, SIDE)), "mask logits"),
    ],
)
def test_a_malformed_prompt_set_is_refused(
    model: SamFamilyModel, features: torch.Tensor, prompt: PromptSet, fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        model.decode(features[:1], [prompt], SHAPE)


def test_features_that_do_not_fit_the_prompt_sets_are_refused(model: SamFamilyModel, features: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="do not fit 3 prompt sets"):
        model.decode(features[:2], [PROMPTS["a box"]] * 3, SHAPE)
    with pytest.raises(ValueError, match="do not fit"):
        model.decode(features[0], [PROMPTS["a box"]], SHAPE)
