"""A whole training: what it writes, what an interruption leaves, what is refused, and an adapter that loads."""

from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import P2SAMSlicerLib
import pytest
import small_network
import torch
from annotated_cases import GRID, lesion, write_pair, write_patients
from P2SAMSlicerLib.adaptation import examples as examples_module
from P2SAMSlicerLib.adaptation import training, validation
from P2SAMSlicerLib.adaptation.options import AdaptationOptions
from P2SAMSlicerLib.adaptation.training import adapt
from P2SAMSlicerLib.adaptation.validation import PROMPTS
from P2SAMSlicerLib.errors import Cancelled, InputError, OutputError
from P2SAMSlicerLib.models import load_model
from P2SAMSlicerLib.models.adapter import read_card, read_tensors
from P2SAMSlicerLib.models.loading import load_network
from P2SAMSlicerLib.models.lora import PREFIX
from P2SAMSlicerLib.progress import ProgressEvent
from small_body import body
from training_examples import SIDE, encoded, example

pytest.importorskip("segment_anything", reason="segment-anything is not installed")

LIBRARY = Path(P2SAMSlicerLib.__file__).parents[1]


# Whole runs


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients."""
    return write_patients(tmp_path_factory.mktemp("cases"), 2)


@pytest.fixture
def options(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdaptationOptions:
    """A short training of the small network."""
    small_network.install(monkeypatch, tmp_path / "models")
    monkeypatch.setattr(training, "use_threads", lambda count: count or 1)
    monkeypatch.setattr(examples_module, "PLACEMENTS", 1)
    # Six kinds of prompts for each slice that is looked at, after each epoch: most of the time of a validated training.
    monkeypatch.setattr(validation, "SLICES", 1)
    (tmp_path / "out").mkdir()
    return AdaptationOptions(
        cases,
        tmp_path / "out" / "a.safetensors",
        base=small_network.MODEL,
        epochs=2,
        batch=4,
        iterations=1,
        validation=0.0,
        learning_rate=2e-3,
        device="cpu",
    )


def files(options: AdaptationOptions) -> list[str]:
    return sorted(each.name for each in options.out.parent.iterdir())


def curve(options: AdaptationOptions) -> list[dict[str, float]]:
    with options.curve_file.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def features_of(checkpoint: Path | None) -> torch.Tensor:
    return load_model(small_network.MODEL, "cpu", checkpoint).encode([example().image])


def test_training_lowers_the_loss_and_writes_an_adapter_that_answers_otherwise(options: AdaptationOptions) -> None:
    from P2SAMSlicerLib.models.protocol import PromptSet

    options = replace(options, epochs=4, licence="CC0-1.0", data="synthetic", title="Mine")
    card = adapt(options)
    losses = [row["loss"] for row in curve(options)]
    assert len(losses) == 4
    assert losses[-1] < 0.8 * losses[0]
    assert files(options) == ["a.curve.csv", "a.features", "a.safetensors"]
    assert read_card(options.out) == card
    assert (card.title, card.licence, card.data, card.method) == ("Mine", "CC0-1.0", "synthetic", "decoder")
    assert (card.training["patients"], card.training["rank"], card.training["slices"]) == (2, None, 14)
    base, adapted = load_model(small_network.MODEL, "cpu"), load_model(small_network.MODEL, "cpu", options.out)
    features = base.encode([example().image])
    torch.testing.assert_close(adapted.encode([example().image]), features, rtol=0, atol=0)
    box = [PromptSet(box=np.array([88.0, 88.0, 168.0, 168.0], dtype=np.float32))]
    answers = [model.decode(features, box, (SIDE, SIDE)).logits for model in (base, adapted)]
    assert float((answers[0] - answers[1]).abs().max()) > 0.1


def test_the_same_training_gives_the_same_adapter_and_another_seed_another(options: AdaptationOptions) -> None:
    adapt(replace(options, epochs=1))
    first = options.out.read_bytes()
    adapt(replace(options, epochs=1))
    assert options.out.read_bytes() == first
    adapt(replace(options, epochs=1, seed=1))
    assert options.out.read_bytes() != first


def stop_in_epoch(number: int) -> Callable[[ProgressEvent], None]:
    def progress(event: ProgressEvent) -> None:
        if event.message.startswith(f"epoch {number} ") and event.done == 2:
            raise Cancelled("stopped")

    return progress


@pytest.mark.parametrize(
    "method", [pytest.param("decoder", marks=pytest.mark.long), "lora", pytest.param("full", marks=pytest.mark.long)]
)
def test_an_interrupted_training_that_goes_on_ends_like_an_uninterrupted_one(method: Any, options: AdaptationOptions) -> None:
    options = replace(options, method=method, epochs=2, batch=4, iterations=0, validation=0.5)
    whole = adapt(options)
    expected, rows = read_tensors(options.out), curve(options)
    options = replace(options, out=options.out.with_name("b.safetensors"))
    with pytest.raises(Cancelled):
        adapt(options, stop_in_epoch(2))
    assert options.state_file.is_file()
    assert not options.out.exists()
    assert len(curve(options)) == 1
    assert adapt(replace(options, resume=True)) == whole
    found = read_tensors(options.out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert curve(options) == rows
    assert not options.state_file.exists()
    validated = whole.training["validation_slice_dice"]
    assert set(validated) == {name for name, *_ in PROMPTS}


@pytest.fixture
def interrupted(options: AdaptationOptions) -> AdaptationOptions:
    """A training of which one epoch is done."""
    with pytest.raises(Cancelled):
        adapt(options, stop_in_epoch(2))
    return replace(options, resume=True)


def refused(options: AdaptationOptions) -> str:
    before = files(options)
    with pytest.raises(InputError) as caught:
        adapt(options)
    assert "\n" not in str(caught.value)
    assert files(options) == before
    return str(caught.value)


def test_a_training_goes_on_with_nothing_but_its_own_options_data_and_weights(
    interrupted: AdaptationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "--resume: a.state.pt belongs to a training with other options, data or base weights"
    for changed in ({"epochs": 3}, {"learning_rate": 1e-3}, {"seed": 1}, {"batch": 5}, {"iterations": 2}, {"keep": 0.0}):
        assert refused(replace(interrupted, **changed)) == other
    assert refused(replace(interrupted, method="lora")) == other
    write_patients(tmp_path / "moved")
    mask = lesion(4.0)
    write_pair(tmp_path / "moved" / "P1", "ct.nii.gz", "seg.nii.gz", body([mask], GRID, 77), mask)
    assert refused(replace(interrupted, train=tmp_path / "moved")) == other
    small_network.install(monkeypatch, tmp_path / "models", seed=6)
    assert refused(interrupted) == other


@pytest.mark.long  # an interrupted training goes on in tests above; what it must not go on with, too
def test_a_training_goes_on_when_its_data_were_moved(interrupted: AdaptationOptions, tmp_path: Path) -> None:
    adapt(replace(interrupted, train=write_patients(tmp_path / "moved"), title="New title"))
    assert read_card(interrupted.out).title == "New title"


def test_a_state_that_is_absent_or_damaged_is_refused(interrupted: AdaptationOptions, tmp_path: Path) -> None:
    state = interrupted.state_file
    content = state.read_bytes()
    for damaged in (content[:-100], b"", b"no state", content[: len(content) // 2]):
        state.write_bytes(damaged)
        assert refused(interrupted) == "--resume: a.state.pt is damaged"
    torch.save({"epoch": 1}, state)
    assert refused(interrupted) == "--resume: a.state.pt is damaged"
    torch.save([1], state)
    assert refused(interrupted) == "--resume: a.state.pt is damaged"
    state.unlink()
    assert refused(interrupted).startswith("--resume: a.state.pt is not there")
    assert not (tmp_path / "sprung").exists()


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


def test_pickled_code_in_a_state_is_not_run(
    interrupted: AdaptationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    torch.save({"epoch": 1, "weights": _Trap(), "optimizer": {}, "curve": [], "mark": ""}, interrupted.state_file)
    assert refused(interrupted) == "--resume: a.state.pt is damaged"
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.long)])
def test_the_encoder_is_adapted_and_merged_once(
    method: Any, options: AdaptationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, Any] = {}
    prepare = training._prepare

    def prepared(*arguments: Any) -> Any:
        found = prepare(*arguments)
        trained["network"] = found.loaded.network
        return found

    monkeypatch.setattr(training, "_prepare", prepared)
    card = adapt(replace(options, method=method, rank=2, epochs=1, learning_rate=2e-2))
    assert card.training["rank"] == (2 if method == "lora" else None)
    names = read_tensors(options.out)
    lora = {name for name in names if name.startswith(PREFIX)}
    assert bool(lora) == (method == "lora")
    assert any(name.startswith("image_encoder.") for name in names) == (method == "full")
    network = trained["network"].eval()
    with torch.inference_mode():
        expected = encoded(network, [example()])
    found = features_of(options.out)
    base = features_of(None)
    scale = float((expected - base).abs().max())
    assert scale > 0.05
    # Half precision of the file; merged twice it would be as far from the truth as the base is.
    assert float((found - expected).abs().max()) < 0.05 * scale
    assert files(options) == ["a.curve.csv", "a.safetensors"]


@pytest.mark.long  # what LoRA changes, above
def test_full_training_changes_every_kind_of_weight_that_learns(options: AdaptationOptions) -> None:
    adapt(replace(options, method="full", epochs=1))
    names = read_tensors(options.out)
    own = dict(small_network.seeded().named_parameters())
    changed = {name for name in names if not torch.equal(names[name], own[name].half())}
    assert names.keys() == {name for name in own if name.split(".")[0] in ("image_encoder", "prompt_encoder", "mask_decoder")}
    assert {name.split(".")[0] for name in changed} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert "prompt_encoder.no_mask_embed.weight" not in changed
    assert "image_encoder.pos_embed" in changed


def test_a_training_that_diverges_is_ended_in_one_line_and_writes_no_adapter(
    options: AdaptationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "interactive_step", lambda *_arguments: float("nan"))
    with pytest.raises(InputError, match=r"^the training diverged.*--learning-rate$"):
        adapt(options)
    assert files(options) == ["a.features"]


def test_a_disk_that_is_full_at_the_end_leaves_the_state_and_no_adapter(
    options: AdaptationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = Path.replace

    def full(path: Path, target: Path) -> Path:
        if Path(target).name == "a.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replaced(path, target)

    monkeypatch.setattr(Path, "replace", full)
    options = replace(options, epochs=1)
    with pytest.raises(OutputError, match=r"^a\.safetensors: cannot be written \(no space left on device\)$"):
        adapt(options)
    assert files(options) == ["a.curve.csv", "a.features", "a.state.pt"]
    monkeypatch.undo()


LIMITED = """
    import resource, signal, sys
    from pathlib import Path
    import numpy as np, torch
    from P2SAMSlicerLib.adaptation.examples import Example
    from P2SAMSlicerLib.adaptation.feature_cache import cached_features
    from P2SAMSlicerLib.adaptation.options import AdaptationOptions
    from P2SAMSlicerLib.adaptation.training_state import TrainingState, write_state
    from P2SAMSlicerLib.errors import OutputError
    from P2SAMSlicerLib.models.preprocessing import Preprocessing
    from P2SAMSlicerLib.progress import silent
    import small_network
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    out = Path(sys.argv[1])
    mask = np.ones((256, 256), bool)
    one = Example("P", np.zeros((256, 256, 3), np.uint8), mask, mask, 1.0)
    for write in (
        lambda: write_state(out / "a.state.pt", TrainingState(1, {"x": torch.zeros(100000)}, {}, []), ""),
        lambda: cached_features(out / "a.features", small_network.seeded(), Preprocessing(256), [one], "w", silent),
    ):
        try:
            write()
        except OutputError as error:
            print(error)
"""


def python(code: str, *arguments: Path) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARY), str(Path(__file__).parent)])}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
def test_a_full_disk_leaves_neither_a_state_nor_features(tmp_path: Path) -> None:
    done = subprocess.run(
        python(LIMITED, tmp_path), capture_output=True, text=True, check=False, timeout=120, env=environment()
    )
    lines = done.stdout.splitlines()
    assert [Path(line.split(":")[0]).suffix for line in lines] == [".pt", ".npy"], done.stderr[-800:]
    assert all(": cannot be written (" in line for line in lines)
    assert not [left for left in tmp_path.rglob("*") if left.is_file()]


KILLED = """
    import sys
    from pathlib import Path
    import pytest, small_network
    from P2SAMSlicerLib.adaptation.options import AdaptationOptions
    from P2SAMSlicerLib.adaptation.training import adapt
    train, folder = Path(sys.argv[1]), Path(sys.argv[2])
    small_network.install(pytest.MonkeyPatch(), folder / "models")
    adapt(
        AdaptationOptions(
            train, folder / "out" / "a.safetensors", base=small_network.MODEL, epochs=1000, batch=14, iterations=0,
            validation=0.0, device="cpu", threads=1,
        ),
        lambda event: print(event.message, flush=True),
    )
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_killed_training_leaves_whole_files_only(options: AdaptationOptions, cases: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        python(KILLED, cases, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 3 "):
                break
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    named = [name for name in files(options) if not name.startswith(".p2sam-")]
    assert named == ["a.curve.csv", "a.features", "a.state.pt"]
    done = len(curve(options))
    assert done >= 2
    state = torch.load(options.state_file, weights_only=True)
    assert state["epoch"] in (done, done + 1)


# Refusals


def test_options_that_mean_nothing_are_refused_before_any_work(options: AdaptationOptions) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"rank": 0}, "--rank"),
        ({"epochs": 0}, "--epochs"),
        ({"batch": 0}, "--batch"),
        ({"iterations": -1}, "--iterations"),
        ({"seed": -1}, "--seed"),
        ({"method": "magic"}, "--method"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"validation": 1.0}, "--validation"),
        ({"validation": 0.9}, "--validation"),
        ({"keep": -1.0}, "--keep"),
        ({"keep": float("inf")}, "--keep"),
        ({"margin_mm": 0.0}, "--margin-mm"),
        ({"margin_mm": float("nan")}, "--margin-mm"),
        ({"out": options.out.with_suffix(".pth")}, "a.pth: the adapter's file name must end"),
        ({"base": "sam3"}, "unknown model 'sam3'"),
        ({"train": options.train / "absent"}, "absent: not a folder"),
    ]
    for changed, words in bad:
        assert refused(replace(options, **changed)).startswith(words)
    assert files(options) == []


def test_an_adapter_is_no_base_of_a_training(options: AdaptationOptions) -> None:
    adapt(replace(options, epochs=1))
    message = refused(replace(options, checkpoint=options.out, out=options.out.with_name("b.safetensors")))
    assert message.startswith("a.safetensors: is an adapter")


@pytest.mark.parametrize("method", ["decoder", pytest.param("lora", marks=pytest.mark.long)])
def test_a_share_of_what_was_learned_is_written_and_validated(method: Any, options: AdaptationOptions) -> None:
    options = replace(options, epochs=1, method=method, validation=0.5, share=1.0)
    whole = adapt(options)
    learned = read_tensors(options.out)
    base = load_network(small_network.MODEL, "cpu").network.state_dict()
    half = adapt(replace(options, share=0.5))
    assert half.training["share"] == 0.5
    assert half.training["validation_slice_dice"] != whole.training["validation_slice_dice"]
    for name, tensor in read_tensors(options.out).items():
        whole_change, factor = learned[name].float(), 0.5 if name.endswith(".b") else 1.0
        expected = factor * whole_change if name.startswith(PREFIX) else (whole_change + base[name]) / 2
        torch.testing.assert_close(tensor.float(), expected, rtol=2e-3, atol=2e-4)


def test_a_place_that_cannot_be_written_is_refused_before_training(options: AdaptationOptions) -> None:
    events: list[ProgressEvent] = []
    absent = replace(options, out=options.out.parent / "absent" / "a.safetensors")
    folder = replace(options, out=options.out.parent / "b.safetensors")
    folder.out.mkdir()
    for each in (absent, folder):
        with pytest.raises(OutputError, match=r"^[ab]\.safetensors: cannot be written"):
            adapt(each, events.append)
    assert not events


def test_an_earlier_adapter_is_replaced(options: AdaptationOptions) -> None:
    options.out.write_text("old")
    adapt(replace(options, epochs=1))
    assert read_card(options.out).base == small_network.MODEL
