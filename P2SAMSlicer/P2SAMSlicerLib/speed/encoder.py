"""Images a second through an encoder: this product's ways against the package's own encoder in eager float32."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.errors import out_of_memory
from P2SAMSlicerLib.speed.hardware import Hardware, computes_in_bfloat16, measure_hardware, synchronize
from P2SAMSlicerLib.speed.plain_process import PlainProcess

#: Batches that are tried for the best one, besides 1 and what the product takes.
CPU_BATCHES, GPU_BATCHES = (4,), (4, 8, 16)

#: Runtimes that are weighed where they are installed; the product does not use them.
OPENVINO, ONNX_RUNTIME = "OpenVINO, float32", "ONNX Runtime, float32"
COMPILED = "torch.compile, float32"
PRODUCT = "this product"

#: Takes a batch of images and returns features.
Encode = Callable[[Any], Any]


@dataclass(frozen=True)
class EncoderTiming:
    """One way to encode at one batch size.

    :param way: name for people.
    :param seconds: of one image, median.
    :param ratio: of the plain encoder's seconds at batch 1 to these, the median of pairs taken one after the other.
    :param setup_seconds: what it takes before the first image: compiling, converting.
    :param difference: largest difference of a feature from the plain encoder's, relative to the largest feature.
    """

    way: str
    batch: int
    seconds: float
    ratio: float
    setup_seconds: float
    difference: float


@dataclass(frozen=True)
class EncoderFindings:
    """All ways of one model.

    :param model: id in the catalogue.
    :param weights: ``own``, or ``random`` where they are not on this computer (speed does not depend on them).
    :param plain_seconds: of one image through the package's own encoder, median.
    :param flop: operations of one image.
    :param moved_bytes: that its operators read and write for one image, unfused.
    :param left_out: ways that could not be measured, and why.
    """

    model: str
    weights: str
    device: str
    threads: int
    plain_seconds: float
    flop: float
    moved_bytes: float
    hardware: Hardware
    timings: tuple[EncoderTiming, ...]
    left_out: tuple[str, ...] = ()

    @property
    def best(self) -> EncoderTiming:
        """The fastest of the product's own ways."""
        return min((each for each in self.timings if each.way.startswith(PRODUCT)), key=lambda each: each.seconds)


@dataclass
class _Way:
    name: str
    encode: Encode
    setup_seconds: float = 0.0
    batches: tuple[int, ...] = field(default=())


def measure_encoder(
    model: str, device: str, threads: int, repeats: int, *, checkpoint: Path | None = None, tell: Callable[[str], None]
) -> EncoderFindings:
    """Measure a model's encoder.

    :param model: whose package is installed.
    :param device: as of ``p2sam propagate``.
    :param repeats: pairs of the plain encoder and each way.
    :param tell: told what is being measured.
    :raises ModelError: the package is missing, or the device is not there.
    """
    import torch

    from P2SAMSlicerLib.models import load_model, store

    seed = None if checkpoint is not None or store.find(model) is not None else 0
    ours: Any = load_model(model, device, checkpoint, seed, precision="float32")
    place = ours.device
    with PlainProcess(model, checkpoint, seed, str(place), threads) as plain:
        tell("the plain encoder")
        plain.encode_seconds(1)  # warm
        flop, moved = plain.work()
        ways, left_out = _ways(ours, place, tell)
        timings: list[EncoderTiming] = []
        plain_seconds: list[float] = []
        difference = _Difference(plain, ours.preprocessing.size, place)
        for way in ways:
            for batch in way.batches:
                tell(f"{way.name}, batch {batch}")
                images = torch.rand(batch, 3, ours.preprocessing.size, ours.preprocessing.size, device=place)
                try:
                    apart = difference.of(way.encode)
                    seconds, pairs = _pairs(way, images, plain, place, repeats)
                except (RuntimeError, MemoryError) as error:
                    left_out.append(f"{way.name}, batch {batch}: {out_of_memory(error) or type(error).__name__}")
                    continue
                plain_seconds += pairs
                ratio = statistics.median(p / s for p, s in zip(pairs, seconds, strict=True))
                middle = statistics.median(seconds)
                timings.append(EncoderTiming(way.name, batch, middle, ratio, way.setup_seconds, apart))
    precisions = ("float32", "bfloat16") if computes_in_bfloat16(place) else ("float32",)
    return EncoderFindings(
        model,
        "own" if seed is None else "random",
        str(place),
        threads,
        statistics.median(plain_seconds),
        flop,
        moved,
        measure_hardware(place, precisions),
        tuple(timings),
        tuple(left_out),
    )


def _pairs(way: _Way, images: Any, plain: PlainProcess, place: Any, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of one image, this way and the plain one, taken in turns."""
    import torch

    seconds, pairs = [], []
    with torch.inference_mode():
        way.encode(images)  # warm
        for _ in range(repeats):
            pairs.append(plain.encode_seconds(1))
            synchronize(place)
            started = time.perf_counter()
            way.encode(images)
            synchronize(place)
            seconds.append((time.perf_counter() - started) / len(images))
    return seconds, pairs


class _Difference:
    """How far features lie from the plain encoder's, on one image."""

    def __init__(self, plain: PlainProcess, size: int, place: Any) -> None:
        import torch

        self._image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        self._expected = torch.from_numpy(plain.features(self._image.numpy()))
        self._place = place

    def of(self, encode: Encode) -> float:
        """Largest difference relative to the largest feature."""
        import torch

        with torch.inference_mode():
            found = torch.as_tensor(encode(self._image.to(self._place))).float().cpu()
        return float((found - self._expected).abs().max() / self._expected.abs().max())


def _ways(ours: Any, place: Any, tell: Callable[[str], None]) -> tuple[list[_Way], list[str]]:
    """The product's ways, and the runtimes that are installed."""
    import torch

    encoder = ours.network.image_encoder
    batches = tuple(sorted({1, ours.encode_chunk, *(GPU_BATCHES if place.type == "cuda" else CPU_BATCHES)}))
    ways = [_Way(f"{PRODUCT}, float32", encoder, batches=batches)]
    left_out = []
    if computes_in_bfloat16(place):
        ways.append(_Way(f"{PRODUCT}, bfloat16", _autocast(encoder, place, torch.bfloat16), batches=batches))
    else:
        left_out.append("bfloat16: this device has no instructions for it")
    example = torch.rand(1, 3, ours.preprocessing.size, ours.preprocessing.size, device=place)
    runtimes: list[tuple[str, Callable[[Any, Any], Encode], str | None]] = [(COMPILED, _compiled, _no_compiler())]
    if place.type == "cpu":
        runtimes.append((OPENVINO, _openvino, _not_installed("openvino")))
        runtimes.append((ONNX_RUNTIME, _onnx_runtime, _not_installed("onnxruntime", "onnx")))
    for name, build, missing in runtimes:
        if missing is not None:
            left_out.append(f"{name}: {missing}")
            continue
        tell(f"{name}: setting up")
        started = time.perf_counter()
        try:
            ways.append(_Way(name, build(encoder, example), time.perf_counter() - started, (1,)))
        except Exception as error:  # whatever another runtime raises: its row is left out, and says so
            left_out.append(f"{name}: {type(error).__name__}")
    return ways, left_out


def _autocast(encoder: Encode, place: Any, dtype: Any) -> Encode:
    import torch

    def encode(images: Any) -> Any:
        with torch.autocast(place.type, dtype):
            return encoder(images)

    return encode


def _compiled(encoder: Any, example: Any) -> Encode:
    import torch

    compiled: Encode = torch.compile(encoder)
    with torch.inference_mode():
        compiled(example)
    return compiled


def _openvino(encoder: Any, example: Any) -> Encode:
    import torch

    openvino = importlib.import_module("openvino")  # by its name: measured where somebody has it, and no dependency

    with torch.inference_mode():
        converted = openvino.convert_model(encoder, example_input=example)
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    converted.reshape(list(example.shape))
    compiled = openvino.Core().compile_model(converted, "CPU", settings)
    return lambda images: compiled([images.numpy()])[0]


def _onnx_runtime(encoder: Any, example: Any) -> Encode:
    import torch

    onnxruntime = importlib.import_module("onnxruntime")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = str(Path(folder) / "encoder.onnx")
        torch.onnx.export(encoder, (example,), file, input_names=["images"], opset_version=17, dynamo=False)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})[0]


def _not_installed(*packages: str) -> str | None:
    missing = [each for each in packages if importlib.util.find_spec(each) is None]
    return f"{', '.join(missing)} not installed" if missing else None


def _no_compiler() -> str | None:
    """torch.compile needs a C++ compiler, and on Windows one in its environment."""
    usual = ["cl"] if sys.platform == "win32" else ["g++", "clang++"]
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else usual
    return None if any(shutil.which(each) for each in wanted) else "no C++ compiler on this computer"
