"""An adapter file: what is written is read, and whatever is no adapter for this model is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import P2SAMSlicerLib
import pytest
import small_network
import torch
from P2SAMSlicerLib.errors import ModelError, OutputError
from P2SAMSlicerLib.models import check_model, load_model
from P2SAMSlicerLib.models.adapter import CARD_KEY, AdapterCard, is_adapter, read_card, read_tensors, write_adapter
from P2SAMSlicerLib.models.checkpoint import hash_file
from P2SAMSlicerLib.models.lora import PREFIX
from safetensors.torch import save_file

pytest.importorskip("segment_anything", reason="segment-anything is not installed")

LIBRARY = Path(P2SAMSlicerLib.__file__).parents[1]
CARD = AdapterCard(
    title="Test adapter",
    base=small_network.MODEL,
    base_sha256="0" * 64,
    method="lora",
    trained_prompts=("points", "box", "mask"),
    licence="CC-BY-4.0",
    data="Nobody's data, after Ångström & 李",
    training={"epochs": 3, "validation_slice_dice": {"box": {"base": 0.5, "adapted": 0.625}}},
)
WHOLE = "mask_decoder.iou_token.weight"
LAYER = "image_encoder.blocks.1.attn.qkv"

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    """One whole tensor, and the LoRA factors of one layer."""
    generator = torch.Generator().manual_seed(2)
    width = 12
    return {
        WHOLE: torch.randn((1, small_network.WIDTH), generator=generator),
        f"{PREFIX}{LAYER}.a": torch.randn((3, 1, width), generator=generator),
        f"{PREFIX}{LAYER}.b": torch.randn((3 * width, 1), generator=generator),
    }


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AdapterCard:
    """The card of an adapter for the small network, which is installed."""
    weights = small_network.install(monkeypatch, tmp_path / "models")
    return replace(CARD, base_sha256=hash_file(weights))


def one_line(call: Callable[[], Any]) -> str:
    with pytest.raises(ModelError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def picture() -> Any:
    return np.random.default_rng(3).integers(0, 256, (200, 256, 3), dtype=np.uint8)


def load(path: Path) -> Any:
    return load_model(small_network.MODEL, "cpu", path)


def test_what_is_written_is_read_in_half_precision(tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(path, CARD, tensors)
    assert read_card(path) == CARD
    found = read_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == torch.float16
        torch.testing.assert_close(found[name].float(), tensor, rtol=1e-3, atol=1e-6)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_tensor_that_is_no_contiguous_one_or_still_learns_is_written_as_it_is(tmp_path: Path) -> None:
    learning = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)).T
    write_adapter(tmp_path / "a.safetensors", CARD, {"x": learning, "y": learning})
    found = read_tensors(tmp_path / "a.safetensors")
    assert found["x"].tolist() == found["y"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_weights_beyond_half_precision_are_refused_when_written_and_not_by_whoever_loads_them(tmp_path: Path) -> None:
    for value in (1e6, float("nan")):
        message = one_line(partial(write_adapter, tmp_path / "a.safetensors", CARD, {"x": torch.tensor([value])}))
        assert message.startswith("a.safetensors: 'x'")
    assert not list(tmp_path.iterdir())


def test_an_adapter_is_known_by_its_name() -> None:
    assert is_adapter(Path("a.safetensors"))
    assert is_adapter(Path("A.SAFETENSORS"))
    assert not is_adapter(Path("a.pth"))


def test_an_adapted_model_has_the_whole_tensor_and_the_product_of_the_factors_once(
    tmp_path: Path, card: AdapterCard, tensors: Tensors
) -> None:
    write_adapter(tmp_path / "a.safetensors", card, tensors)
    base, adapted = load_model(small_network.MODEL, "cpu"), load(tmp_path / "a.safetensors")
    before, after = base._network.state_dict(), adapted._network.state_dict()  # type: ignore[attr-defined]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {WHOLE, f"{LAYER}.weight"}
    torch.testing.assert_close(after[WHOLE], tensors[WHOLE].half().float(), rtol=0, atol=0)
    a, b = tensors[f"{PREFIX}{LAYER}.a"].half().float(), tensors[f"{PREFIX}{LAYER}.b"].half().float()
    product = torch.cat([torch.outer(b[12 * part : 12 * (part + 1), 0], a[part, 0]) for part in range(3)])
    torch.testing.assert_close(after[f"{LAYER}.weight"] - before[f"{LAYER}.weight"], product, rtol=0, atol=1e-5)
    assert not torch.allclose(base.encode([picture()]), adapted.encode([picture()]), atol=1e-3)


def test_an_adapted_model_says_what_it_is(tmp_path: Path, card: AdapterCard, tensors: Tensors) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(path, card, tensors)
    said = load(path).card
    assert (said.title, said.licence, said.trained_prompts) == (card.title, card.licence, card.trained_prompts)
    assert said.sha256 == hash_file(path)
    assert "a.safetensors" in said.source
    assert card.base_sha256 in said.source
    assert said.training_data.startswith(card.data)
    assert "each looked at and corrected by a person" in said.intended_use


def test_checking_a_model_gives_the_weights_under_the_adapter(tmp_path: Path, card: AdapterCard, tensors: Tensors) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(path, card, tensors)
    assert hash_file(check_model(small_network.MODEL, path)) == card.base_sha256


def test_an_adapter_of_the_catalogue_is_put_on_the_models_own_weights(
    tmp_path: Path, card: AdapterCard, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    from P2SAMSlicerLib.models import loading

    path = tmp_path / "shipped.safetensors"
    write_adapter(path, card, tensors)
    entry = loading.catalogue_entry  # type: ignore[attr-defined]
    monkeypatch.setattr(loading, "catalogue_entry", lambda model: replace(entry(model), adapter=path.name))
    monkeypatch.setattr(loading, "resource_path", lambda name: tmp_path / name.removeprefix("Models/"))
    assert load_model(small_network.MODEL, "cpu").card.title == card.title
    assert load_model(small_network.MODEL, "cpu", check_model(small_network.MODEL)).card.title != card.title


def test_an_adapter_for_other_weights_is_refused(tmp_path: Path, card: AdapterCard, tensors: Tensors) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(path, replace(card, base_sha256="1" * 64), tensors)
    message = one_line(lambda: check_model(small_network.MODEL, path))
    assert message.startswith("a.safetensors: was made for other weights")
    assert one_line(lambda: load(path)) == message


def _absent(path: Path, _card: AdapterCard, _tensors: Tensors) -> None:
    assert not path.exists()


def _garbage(path: Path, _card: AdapterCard, _tensors: Tensors) -> None:
    path.write_bytes(b"no tensors at all, but long enough to be read")


def _empty(path: Path, _card: AdapterCard, _tensors: Tensors) -> None:
    path.write_bytes(b"")


def _truncated(path: Path, card: AdapterCard, tensors: Tensors) -> None:
    write_adapter(path, card, tensors)
    path.write_bytes(path.read_bytes()[:-10])


def _header_only(path: Path, card: AdapterCard, tensors: Tensors) -> None:
    write_adapter(path, card, tensors)
    path.write_bytes(path.read_bytes()[:40])


def _folder(path: Path, _card: AdapterCard, _tensors: Tensors) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (_absent, "adapter file not found"),
        (_folder, "adapter file not found"),
        (_garbage, "is not a safetensors file, or is damaged"),
        (_empty, "is not a safetensors file, or is damaged"),
        (_truncated, "is not a safetensors file, or is damaged"),
        (_header_only, "is not a safetensors file, or is damaged"),
    ],
)
def test_a_file_that_holds_no_tensors_is_refused(
    make: Callable[[Path, AdapterCard, Tensors], None], fault: str, tmp_path: Path, card: AdapterCard, tensors: Tensors
) -> None:
    path = tmp_path / "a.safetensors"
    make(path, card, tensors)
    assert one_line(lambda: read_card(path)) == f"a.safetensors: {fault}"
    assert one_line(lambda: load(path)) == f"a.safetensors: {fault}"


def test_tensors_without_a_card_are_refused_as_no_adapter(tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "a.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file(tensors, path, metadata=metadata)
        assert one_line(lambda: read_card(path)) == "a.safetensors: a safetensors file, but no adapter made by p2sam adapt"


def _without(name: str) -> str:
    return json.dumps({key: value for key, value in asdict(CARD).items() if key != name})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "null",
        "[" * 100_000,
        *map(_without, ("title", "base_sha256", "trained_prompts")),
        json.dumps({**asdict(CARD), "surprise": 1}),
        json.dumps({**asdict(CARD), "title": 7}),
        json.dumps({**asdict(CARD), "title": "two\nlines"}),
        json.dumps({**asdict(CARD), "base": None}),
        json.dumps({**asdict(CARD), "trained_prompts": ["telepathy"]}),
        json.dumps({**asdict(CARD), "trained_prompts": "box"}),
        json.dumps({**asdict(CARD), "trained_prompts": [["box"]]}),
        json.dumps({**asdict(CARD), "trained_prompts": []}),
        json.dumps({**asdict(CARD), "training": "none"}),
    ],
    ids=lambda text: text[:12] + text[-12:],
)
def test_a_damaged_card_is_refused(text: str, tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata={CARD_KEY: text})
    assert one_line(lambda: read_card(path)) == "a.safetensors: the adapter's card is damaged"


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, float("nan"))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t | {"mask_decoder.surprise": t[WHOLE].clone()}, "'mask_decoder.surprise' is no weight of the base model"),
        (lambda t: t | {"two\nlines": t[WHOLE].clone()}, "is no weight of the base model"),
        (lambda t: t | {WHOLE: t[WHOLE].T.contiguous()}, f"'{WHOLE}' has shape (32, 1), the base (1, 32)"),
        (lambda t: t | {WHOLE: _nan(t[WHOLE])}, f"'{WHOLE}' holds NaN, infinite or other values than weights"),
        (lambda t: t | {WHOLE: t[WHOLE] / 0}, f"'{WHOLE}' holds NaN, infinite or other values than weights"),
        (lambda t: t | {WHOLE: t[WHOLE].int()}, f"'{WHOLE}' holds NaN, infinite or other values than weights"),
        (lambda t: {k: v for k, v in t.items() if not k.endswith(".b")}, f"no complete LoRA factors for '{LAYER}'"),
        (lambda t: {k: v for k, v in t.items() if not k.endswith(".a")}, f"no complete LoRA factors for '{LAYER}'"),
        (lambda t: {k.replace("blocks.1", "blocks.7"): v for k, v in t.items()}, "no complete LoRA factors for"),
        (lambda t: t | {f"{PREFIX}{LAYER}.c": t[WHOLE].clone()}, f"no complete LoRA factors for '{LAYER}.c'"),
        (lambda t: t | {f"{PREFIX}{LAYER}.a": t[f"{PREFIX}{LAYER}.a"][:1]}, f"LoRA factors of '{LAYER}' have shapes"),
        (lambda t: t | {f"{PREFIX}{LAYER}.a": t[f"{PREFIX}{LAYER}.a"][0]}, f"LoRA factors of '{LAYER}' have shapes"),
        (lambda t: t | {f"{PREFIX}{LAYER}.b": t[f"{PREFIX}{LAYER}.b"][:5]}, f"LoRA factors of '{LAYER}' have shapes"),
    ],
)
def test_tensors_that_are_not_this_models_are_refused(
    change: Callable[[Tensors], Tensors], fault: str, tmp_path: Path, card: AdapterCard, tensors: Tensors
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(change(tensors), path, metadata={CARD_KEY: json.dumps(asdict(card))})
    message = one_line(lambda: load(path))
    assert message.startswith("a.safetensors: ")
    assert fault in message


def test_eight_bit_floats_are_read_or_refused_but_never_raise_something_else(
    tmp_path: Path, card: AdapterCard, tensors: Tensors
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(tensors | {WHOLE: tensors[WHOLE].to(torch.float8_e4m3fn)}, path, metadata={CARD_KEY: json.dumps(asdict(card))})
    found = load(path)._network.state_dict()[WHOLE]
    torch.testing.assert_close(found, tensors[WHOLE], rtol=0.1, atol=0.01)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


def test_pickled_code_under_an_adapters_name_is_not_run(
    tmp_path: Path, card: AdapterCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    del card
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    path = tmp_path / "a.safetensors"
    for content in (pickle.dumps(_Trap()), None):
        if content is None:
            torch.save(_Trap(), path)
        else:
            path.write_bytes(content)
        assert one_line(lambda: load(path)) == "a.safetensors: is not a safetensors file, or is damaged"
    assert not (tmp_path / "sprung").exists()


def test_reading_a_card_imports_no_torch(tmp_path: Path, tensors: Tensors) -> None:
    write_adapter(tmp_path / "a.safetensors", CARD, tensors)
    code = """
        import sys
        from pathlib import Path
        from P2SAMSlicerLib.models.adapter import read_card
        print(read_card(Path(sys.argv[1])).title, "torch" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.safetensors")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
    )
    assert done.stdout == "Test adapter False\n", done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
def test_a_full_disk_leaves_no_adapter_and_says_so_in_one_line(tmp_path: Path) -> None:
    code = """
        import resource, signal, sys
        import torch
        from pathlib import Path
        from P2SAMSlicerLib.errors import OutputError
        from P2SAMSlicerLib.models.adapter import AdapterCard, write_adapter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        card = AdapterCard("t", "b", "0", "decoder", ("box",), "CC0-1.0", "")
        try:
            write_adapter(Path(sys.argv[1]) / "a.safetensors", card, {"x": torch.zeros(100000)})
        except OutputError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
    )
    assert done.stdout.startswith("a.safetensors: cannot be written ("), done.stderr[-500:]
    assert not list(tmp_path.iterdir())


def test_an_adapter_in_a_folder_that_is_not_there_cannot_be_written(tmp_path: Path, tensors: Tensors) -> None:
    with pytest.raises(OutputError, match=r"a\.safetensors: cannot be written"):
        write_adapter(tmp_path / "absent" / "a.safetensors", CARD, tensors)
