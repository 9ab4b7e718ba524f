"""``p2sam segment-image``: pictures as people see them, masks, and every candidate on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_engine import names_in
from numpy.typing import NDArray
from P2SAMSlicerLib import cli
from P2SAMSlicerLib.cli.picture import read_mask, read_picture
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models.protocol import ModelCard
from P2SAMSlicerLib.result import Candidate, ImageResult
from P2SAMSlicerLib.segmentation import PRESETS, PaperOptions
from PIL import Image

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel

#: A picture of 4 x 3 pixels of which no two are alike.
PIXELS = (np.arange(36, dtype=np.uint8) * 7).reshape(3, 4, 3)


def save(path: Path, array: NDArray[Any], mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def save_turned(path: Path, array: NDArray[Any], orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, array, exif=exif)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        read_picture(path)
    message = str(raised.value)
    assert message.startswith(f"{path.name}: ")
    assert "\n" not in message
    return message


# --- pictures --------------------------------------------------------------------------------------------------------------


def test_a_colour_picture_is_read_as_it_is(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "a.png", PIXELS))
    assert np.array_equal(picture.array, PIXELS)
    assert picture.array.dtype == np.uint8
    assert not picture.turned


def test_a_grey_picture_becomes_three_equal_channels(tmp_path: Path) -> None:
    for name, mode in (("l.png", "L"), ("la.png", "LA")):
        array = read_picture(save(tmp_path / name, PIXELS[..., 0], mode)).array
        assert np.array_equal(array, np.repeat(PIXELS[..., :1], 3, axis=2))


def test_transparent_parts_are_black_and_half_transparent_ones_darker(tmp_path: Path) -> None:
    alpha = np.zeros((3, 4, 1), dtype=np.uint8)
    alpha[0], alpha[1] = 255, 51
    array = read_picture(save(tmp_path / "a.png", np.concatenate([PIXELS, alpha], axis=2))).array
    assert np.array_equal(array[0], PIXELS[0])
    assert np.abs(array[1] - PIXELS[1] / 5).max() <= 1
    assert not array[2].any()


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").array.tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_as_its_camera_says(tmp_path: Path, orientation: int) -> None:
    # What must be done to the stored pixels, from the definition of the EXIF tag: (transpose, then flip rows, flip columns).
    transpose, rows, columns = {
        1: (False, False, False),
        2: (False, False, True),
        3: (False, True, True),
        4: (False, True, False),
        5: (True, False, False),
        6: (True, False, True),
        7: (True, True, True),
        8: (True, True, False),
    }[orientation]
    upright = PIXELS.transpose(1, 0, 2) if transpose else PIXELS
    upright = upright[:: -1 if rows else 1, :: -1 if columns else 1]
    picture = read_picture(save_turned(tmp_path / "a.png", PIXELS, orientation))
    assert np.array_equal(picture.array, upright)
    assert picture.turned == (orientation != 1)


def test_pictures_that_cannot_be_used_are_refused_in_words(tmp_path: Path) -> None:
    deep = save(tmp_path / "deep.png", (PIXELS[..., 0].astype(np.uint16) * 200))
    assert "more than 8 bits a channel" in refusal(deep)
    assert "no such file" in refusal(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("hello")
    assert "not a PNG or JPEG" in refusal(tmp_path / "text.png")
    assert "not a PNG or JPEG" in refusal(save(tmp_path / "a.bmp", PIXELS))
    whole = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (90, 90, 3)).astype(np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert "damaged, or cut short" in refusal(tmp_path / "cut.png")
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1].copy())]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    assert "an animation" in refusal(tmp_path / "moving.png")
    assert "is a directory" in refusal(tmp_path)


def test_a_picture_of_endless_size_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", PIXELS)
    for limit in (10, 5):  # above the limit Pillow warns, above its double it fails
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert "too many pixels" in refusal(path)


# --- masks -----------------------------------------------------------------------------------------------------------------


def test_every_stored_value_but_0_is_inside_a_mask(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "a.png", PIXELS))
    inside = np.array([[0, 1, 0, 0], [0, 255, 7, 0], [0, 0, 0, 0]], dtype=np.uint8)
    expected = inside > 0
    colour = np.zeros((3, 4, 3), dtype=np.uint8)
    colour[..., 2] = inside
    opaque = np.full((3, 4, 1), 255, dtype=np.uint8)
    masks = {
        "grey": save(tmp_path / "grey.png", inside),
        "16 bits": save(tmp_path / "deep.png", inside.astype(np.uint16) * 257),
        "black and white": save(tmp_path / "bw.png", expected),
        "blue only": save(tmp_path / "blue.png", colour),
        "transparency does not count": save(tmp_path / "rgba.png", np.concatenate([colour, opaque], axis=2)),
    }
    palette = Image.fromarray(expected.astype(np.uint8))
    palette.putpalette([255, 255, 255, 0, 0, 0])  # the number counts, not the colour
    palette.save(tmp_path / "palette.png")
    for kind, path in {**masks, "palette": tmp_path / "palette.png"}.items():
        assert np.array_equal(read_mask(path, picture), expected), kind


def test_the_blur_of_a_jpeg_mask_is_not_inside(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "a.png", np.zeros((32, 32, 3), dtype=np.uint8)))
    square = np.zeros((32, 32), dtype=np.uint8)
    square[9:21, 11:25] = 255
    path = save(tmp_path / "mask.jpg", square, quality=60)
    assert np.count_nonzero((np.array(Image.open(path)) > 0) != (square > 0)) > 0
    assert np.array_equal(read_mask(path, picture), square > 0)


def test_a_mask_must_fit_its_picture_and_hold_something(tmp_path: Path) -> None:
    turned = read_picture(save_turned(tmp_path / "a.png", PIXELS, 6))
    with pytest.raises(InputError, match=r"m\.png: the mask has 4 x 3 pixels, and its picture 3 x 4"):
        read_mask(save(tmp_path / "m.png", np.ones((3, 4), dtype=np.uint8)), turned)
    assert read_mask(save(tmp_path / "m.png", np.ones((4, 3), dtype=np.uint8)), turned).all()
    with pytest.raises(InputError, match=r"m\.png: the mask is empty"):
        read_mask(save(tmp_path / "m.png", np.zeros((4, 3), dtype=np.uint8)), turned)


# --- the command -----------------------------------------------------------------------------------------------------------


class FakeModel:
    card = ModelCard("fake", "Fake model", 256, 64, ("box",), "abc", "nowhere", "MIT")


class Segmenter:
    """Stands for paper mode: remembers its input and finds the same mask in every picture."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.mask = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=np.bool_)

    def segment_image(self, _model: Any, *arguments: Any) -> ImageResult:
        self.calls.append(arguments)
        points, labels = np.array([[1, 1], [3, 2]], dtype=np.float32), np.array([1, 0], dtype=np.int64)
        nothing = np.zeros_like(self.mask)
        first = Candidate("parts 1", nothing, points[:1], labels[:1], None, 9.0, 9.0, float("nan"))
        second = Candidate("parts 2", self.mask, points, labels, np.array([1, 1, 2, 1], dtype=np.float32), 2.5, 2.5, 0.5)
        return ImageResult((first, second), 1)


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch, own_threads: None) -> Segmenter:
    del own_threads
    fake = Segmenter()
    monkeypatch.setattr("P2SAMSlicerLib.models.load_model", lambda *_arguments, **_options: FakeModel())
    monkeypatch.setattr("P2SAMSlicerLib.segmentation.segment_image", fake.segment_image)
    return fake


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Arguments of ``p2sam segment-image`` on pictures in ``tmp_path``."""
    save(tmp_path / "reference.png", PIXELS)
    save(tmp_path / "mask.png", np.eye(3, 4, dtype=np.uint8))
    save(tmp_path / "target.png", PIXELS[::-1].copy())
    files = {"--reference-image": "reference.png", "--reference-mask": "mask.png", "--target-image": "target.png"}
    words = [word for option, name in files.items() for word in (option, str(tmp_path / name))]
    return ["segment-image", *words, "--out", str(tmp_path / "found.png")]


def test_the_chosen_mask_is_written_and_every_candidate_recorded(
    command: list[str], tmp_path: Path, segmenter: Segmenter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, "--json", str(tmp_path / "found.json")]) == 0
    ((reference, mask, target, options),) = segmenter.calls
    assert np.array_equal(reference, PIXELS)
    assert np.array_equal(mask, np.eye(3, 4) > 0)
    assert np.array_equal(target, PIXELS[::-1])
    assert options == PaperOptions()
    with Image.open(tmp_path / "found.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.array(image), segmenter.mask * 255)
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["candidates"] == [
        {
            **{"origin": "parts 1", "points": [[1.0, 1.0]], "labels": [1], "box": None, "distance": 9.0},
            **{"predicted_iou": None, "area_px": 0, "chosen": False},
        },
        {
            **{"origin": "parts 2", "points": [[1.0, 1.0], [3.0, 2.0]], "labels": [1, 0], "box": [1.0, 1.0, 2.0, 1.0]},
            **{"distance": 2.5, "predicted_iou": 0.5, "area_px": 2, "chosen": True},
        },
    ]
    assert (record["mask"], record["target_size"]) == ("found.png", {"width": 4, "height": 3})
    assert str(tmp_path) not in json.dumps(record)
    printed = capsys.readouterr().out
    assert "* parts 2" in printed
    assert "Fake model was not trained with points alone" in printed
    assert "The mask is unreviewed" in printed


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--positive", "1:3", "--negative", "1:1"], PaperOptions(positive=(1, 3), negative=(1, 1))),
        (["--positive", "2", "--negative", "0"], PaperOptions(positive=(2, 2), negative=(0, 0))),
        (["--natural"], PRESETS["natural"]),
        (["--natural", "--positive", "1:2"], PaperOptions(positive=(1, 2), natural=True)),
        (["--retrieval", "hungarian", "--seed", "4"], PaperOptions(retrieval="hungarian", seed=4)),
    ],
)
def test_options_reach_paper_mode(command: list[str], segmenter: Segmenter, words: list[str], options: PaperOptions) -> None:
    assert cli.main([*command, *words]) == 0
    assert segmenter.calls[0][3] == options


def test_an_empty_mask_is_not_written(
    command: list[str], tmp_path: Path, segmenter: Segmenter, capsys: pytest.CaptureFixture[str]
) -> None:
    segmenter.mask[:] = False
    assert cli.main([*command, "--json", str(tmp_path / "found.json")]) == 1
    assert not (tmp_path / "found.png").exists()
    assert json.loads((tmp_path / "found.json").read_text())["mask"] is None
    assert "nothing was found, so no mask was written" in capsys.readouterr().out


def test_the_mask_of_a_turned_target_lies_on_the_upright_picture_and_that_is_said(
    command: list[str], tmp_path: Path, segmenter: Segmenter, capsys: pytest.CaptureFixture[str]
) -> None:
    save_turned(tmp_path / "target.png", PIXELS, 6)
    segmenter.mask = np.ones((4, 3), dtype=np.bool_)
    assert cli.main([*command, "--json", str(tmp_path / "found.json")]) == 0
    assert segmenter.calls[0][2].shape == (4, 3, 3)
    assert json.loads((tmp_path / "found.json").read_text())["target_turned_upright"] is True
    assert "turned upright" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "{}/found.jpg"], "--out found.jpg: a mask is written as .png"),
        (["--out", "{}/target.png"], "target.png: is an input, and would be replaced; choose another name"),
        (["--json", "{}/mask.png"], "mask.png: is an input, and would be replaced; choose another name"),
        (["--json", "{}/found.png"], "--json found.png: is the file for the mask; choose another name"),
        (["--out", "{}/absent/found.png"], "found.png: the folder absent, in which it is to be written, is not there"),
        (["--natural", "--negative", "1"], "--negative: photographs (--natural) have one background point; leave it out"),
        (["--target-image", "{}/absent.png"], "absent.png: no such file"),
        (["--reference-mask", "{}/empty.png"], "empty.png: the mask is empty"),
        (["--reference-mask", "{}/large.png"], "large.png: the mask has 9 x 9 pixels, and its picture 4 x 3"),
        (["--model", "sam3"], "unknown model 'sam3'"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(
    command: list[str],
    tmp_path: Path,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own_threads: None,
) -> None:
    del own_threads

    def fail(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("the model must not be loaded")

    monkeypatch.setattr("P2SAMSlicerLib.models.load_model", fail)
    save(tmp_path / "empty.png", np.zeros((3, 4), dtype=np.uint8))
    save(tmp_path / "large.png", np.ones((9, 9), dtype=np.uint8))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert cli.main([*command, *(word.format(tmp_path) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"p2sam: error: {message}")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_the_real_model_answers_on_pictures(
    tmp_path: Path, lite_medsam: PromptableModel, monkeypatch: pytest.MonkeyPatch, own_threads: None
) -> None:
    del own_threads
    monkeypatch.setattr("P2SAMSlicerLib.models.load_model", lambda *_arguments, **_options: lite_medsam)
    y, x = np.mgrid[:96, :128]
    for name, centre in (("reference", (40, 40)), ("target", (60, 80))):
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= 18**2
        save(tmp_path / f"{name}.png", np.where(disc[..., None], (220, 60, 60), (40, 90, 40)).astype(np.uint8))
        save(tmp_path / f"{name}_mask.png", disc.astype(np.uint8))
    files = ["--reference-image", "reference.png", "--reference-mask", "reference_mask.png", "--target-image", "target.png"]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["segment-image", *files, "--out", "found.png", "--json", "found.json", "--negative", "1"]) == 0
    assert names_in(tmp_path)[:2] == ["found.json", "found.png"]
    found = np.array(Image.open("found.png")) > 0
    record = json.loads((tmp_path / "found.json").read_text())
    assert [each["origin"] for each in record["candidates"]] == ["parts 1, background 1", "parts 2, background 1"]
    (chosen,) = [each for each in record["candidates"] if each["chosen"]]
    assert chosen["area_px"] == np.count_nonzero(found)
    assert chosen["distance"] == min(each["distance"] for each in record["candidates"])
