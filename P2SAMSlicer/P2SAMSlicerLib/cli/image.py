"""``p2sam segment-image``: paper mode on one pair of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.cli.arguments import (
    Commands,
    add_model_arguments,
    chosen_model,
    number_range,
    whole_number,
)
from P2SAMSlicerLib.cli.arguments import (
    add_command as add_named_command,
)
from P2SAMSlicerLib.cli.output import check_output_file
from P2SAMSlicerLib.cli.picture import Picture, read_mask, read_picture
from P2SAMSlicerLib.cli.table import figure, format_table
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models import check_model
from P2SAMSlicerLib.models.protocol import ModelCard
from P2SAMSlicerLib.result import Candidate, ImageResult
from P2SAMSlicerLib.result_files import write_json
from P2SAMSlicerLib.retrieval import RETRIEVALS
from P2SAMSlicerLib.segmentation import PRESETS, PaperOptions
from P2SAMSlicerLib.threads import use_threads
from P2SAMSlicerLib.volume import BoolArray

DESCRIPTION = """\
Finds in one picture what a mask shows in another, as in the paper: the reference
object's features are split into parts, each part gives a point, and of all masks
that the points bring the one is chosen whose features are nearest to the
reference's.

Pictures are PNG or JPEG with 8 bits a channel. A picture that a camera marked as
turned (EXIF) is turned upright first, and so is the mask that is written. In the
reference mask every pixel that is not 0 is inside; in a JPEG, whose compression
blurs 0, every pixel of at least 128.

Points alone are what the paper prompts with; a model that was trained with boxes
only, such as lite_medsam, answers them poorly, and that is said."""


def add_command(commands: Commands) -> None:
    """Add ``segment-image`` to the command line."""
    parser = add_named_command(commands, "segment-image", run, "find in one picture what a mask shows in another", DESCRIPTION)
    files = parser.add_argument_group("files")
    files.add_argument("--reference-image", metavar="FILE", type=Path, required=True, help="picture with the object")
    files.add_argument("--reference-mask", metavar="FILE", type=Path, required=True, help="where the object is in it")
    files.add_argument("--target-image", metavar="FILE", type=Path, required=True, help="picture in which to find it")
    files.add_argument("--out", metavar="MASK.png", type=Path, required=True, help="mask to write: 255 inside, 0 outside")
    files.add_argument("--json", metavar="FILE", type=Path, help="every candidate with its points, box and distance")
    usual = PaperOptions()
    method = parser.add_argument_group("method")
    method.add_argument(
        "--positive",
        metavar="A:B",
        type=number_range(1),
        help="numbers of parts of the object to try (default: {}:{}, with --natural {}:{})".format(
            *usual.positive, *PRESETS["natural"].positive
        ),
    )
    method.add_argument(
        "--negative",
        metavar="A:B",
        type=number_range(0),
        help="numbers of parts of the background to try (default: {}:{}; not with --natural)".format(*usual.negative),
    )
    method.add_argument(
        "--natural", action="store_true", help="the paper's way for photographs: guided decoding, one background point"
    )
    method.add_argument(
        "--retrieval", choices=RETRIEVALS, default=usual.retrieval, help="distance that chooses (default: %(default)s)"
    )
    method.add_argument(
        "--seed", metavar="N", type=whole_number(0), default=usual.seed, help="of all random choices (default: %(default)s)"
    )
    add_model_arguments(parser)


def options_of(arguments: argparse.Namespace) -> PaperOptions:
    """The options of the command line.

    :raises InputError: they contradict each other.
    """
    if arguments.natural and arguments.negative is not None:
        raise InputError("--negative: photographs (--natural) have one background point; leave it out")
    usual = PRESETS["natural"] if arguments.natural else PaperOptions()
    options = PaperOptions(
        positive=arguments.positive or usual.positive,
        negative=arguments.negative or usual.negative,
        retrieval=arguments.retrieval,
        natural=arguments.natural,
        seed=arguments.seed,
    )
    options.check()
    return options


def run(arguments: argparse.Namespace) -> int:
    """Run the command.

    :returns: 1 if no candidate holds a pixel; then no mask is written.
    """
    use_threads(arguments.threads)
    options = options_of(arguments)
    inputs = (arguments.reference_image, arguments.reference_mask, arguments.target_image)
    _check_outputs(arguments.out, arguments.json, inputs)
    check_model(arguments.model, arguments.checkpoint, allow_unverified=arguments.allow_unverified)
    reference, target = read_picture(arguments.reference_image), read_picture(arguments.target_image)
    mask = read_mask(arguments.reference_mask, reference)

    from P2SAMSlicerLib.segmentation import segment_image

    model = chosen_model(arguments)
    result = segment_image(model, reference.array, mask, target.array, options)
    found = bool(result.best.mask.any())
    if arguments.json is not None:
        write_json(arguments.json, _record(arguments, model.card, target, result))
    if found:
        write_mask(arguments.out, result.best.mask)
    _print(arguments.out, model.card, target, result)
    return 0 if found else 1


def _check_outputs(out: Path, json: Path | None, inputs: tuple[Path, ...]) -> None:
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out.name}: a mask is written as .png")
    check_output_file(out, inputs)
    if json is not None:
        check_output_file(json, inputs)
        if json.absolute() == out.absolute():
            raise InputError(f"--json {json.name}: is the file for the mask; choose another name")


def write_mask(path: Path, mask: BoolArray) -> None:
    """Write a mask as an 8-bit grey PNG, 255 inside; the file appears whole or not at all.

    :raises OutputError: no space, no permission.
    """
    from PIL import Image

    with atomic_write(path) as temporary:
        Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(temporary, format="PNG")


def _record(arguments: argparse.Namespace, card: ModelCard, target: Picture, result: ImageResult) -> dict[str, Any]:
    rows, columns = target.array.shape[:2]
    return {
        "format": "P2SAMSlicer image",
        "format_version": 1,
        "statement": "For research use only. The mask is unreviewed.",
        "reference_image": arguments.reference_image.name,
        "reference_mask": arguments.reference_mask.name,
        "target_image": arguments.target_image.name,
        "target_size": {"width": columns, "height": rows},
        "target_turned_upright": target.turned,
        "mask": arguments.out.name if result.best.mask.any() else None,
        "model": {
            "id": card.id,
            "sha256": card.sha256,
            "trained_prompts": list(card.trained_prompts),
            "precision": card.precision,
        },
        "retrieval": arguments.retrieval,
        "seed": arguments.seed,
        "candidates": [
            {**_candidate_record(candidate), "chosen": number == result.chosen}
            for number, candidate in enumerate(result.candidates)
        ],
    }


def _candidate_record(candidate: Candidate) -> dict[str, Any]:
    return {
        "origin": candidate.origin,
        "points": candidate.points,
        "labels": candidate.labels,
        "box": candidate.box,
        "distance": candidate.distance,
        "predicted_iou": candidate.predicted_iou,
        "area_px": int(np.count_nonzero(candidate.mask)),
    }


def _print(out: Path, card: ModelCard, target: Picture, result: ImageResult) -> None:
    rows = [
        [
            ("* " if number == result.chosen else "  ") + each.origin,
            figure(each.distance, 3),
            figure(each.predicted_iou, 3),
            str(int(np.count_nonzero(each.mask))),
        ]
        for number, each in enumerate(result.candidates)
    ]
    print(format_table(["  candidate (* chosen)", "distance", "predicted IoU", "pixels"], rows))
    if "points" not in card.trained_prompts:
        print(f"- {card.title} was not trained with points alone; expect poor masks, or try sam_vit_b")
    if target.turned:
        print("- the target was turned upright as its EXIF data say; the mask lies on the upright picture")
    if result.best.mask.any():
        print(f"written: {out}")
    else:
        print("nothing was found, so no mask was written")
    print("For research use only. The mask is unreviewed.")
