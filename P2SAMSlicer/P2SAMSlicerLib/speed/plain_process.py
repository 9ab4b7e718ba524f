"""The peer in a process of its own, as somebody has it who calls the model's package and nothing else.

Nothing of this product has prepared the network there, nor told the C library what to do with freed memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import P2SAMError
from P2SAMSlicerLib.segmentation import PaperOptions
from P2SAMSlicerLib.speed.authors_loop import SlicePair, authors_loop
from P2SAMSlicerLib.speed.steps import step_seconds
from P2SAMSlicerLib.volume import BoolArray

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from P2SAMSlicerLib.models.sam_family import SamFamilyModel

#: Loading a large model from a slow disk may take this long, a whole follow-up with it much longer.
START_SECONDS, WORK_SECONDS = 600.0, 24 * 3600.0


class PlainProcess:
    """Started on entering a ``with`` block, ended on leaving it.

    :param model: id in the catalogue.
    :param seed_weights: random weights from this seed, where the model's own are not on this computer.
    :param device: as a resolved torch device's name.
    :param threads: processor threads.
    """

    def __init__(self, model: str, checkpoint: Path | None, seed_weights: int | None, device: str, threads: int) -> None:
        self._wish = (model, checkpoint, seed_weights, device, threads)

    def __enter__(self) -> PlainProcess:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        self._end, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, *self._wish), daemon=True)
        self._process.start()
        other.close()
        self._answer(START_SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._end.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def encode_seconds(self, batch: int) -> float:
        """Seconds for one batch of random images through the package's own encoder."""
        return float(self._ask("encode", batch))

    def work(self) -> tuple[float, float]:
        """Floating-point operations of the encoder for one image, and bytes that its operators read and write."""
        flop, moved = self._ask("work")
        return float(flop), float(moved)

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features ``(n, C, h, w)`` of the package's own encoder.

        :param images: a batch ``(n, 3, size, size)`` as the network takes it.
        """
        answer: NDArray[np.float32] = self._ask("features", images)
        return answer

    def loop(self, pairs: Sequence[SlicePair], options: PaperOptions) -> tuple[list[BoolArray], dict[str, float]]:
        """Masks of the authors' loop, and the seconds of its steps, together the whole time."""
        masks, steps = self._ask("loop", list(pairs), options)
        return masks, dict(steps)

    def _ask(self, *request: Any) -> Any:
        self._end.send(request)
        return self._answer(WORK_SECONDS)

    def _answer(self, seconds: float) -> Any:
        if not self._end.poll(seconds):
            raise P2SAMError("the peer's process does not answer")
        try:
            kind, answer = self._end.recv()
        except EOFError:
            raise P2SAMError("the peer's process ended; there may not be enough memory for two models") from None
        if kind == "error":
            raise P2SAMError(f"the peer's process failed: {answer}")
        return answer


def _serve(end: Connection, model: str, checkpoint: Path | None, seed: int | None, device: str, threads: int) -> None:
    """The process: loads the plain model and answers until the other end is closed."""
    import torch

    from P2SAMSlicerLib.models.loading import load_network
    from P2SAMSlicerLib.models.sam_family import SamFamilyModel

    torch.set_num_threads(threads)
    try:
        loaded = load_network(model, device, checkpoint, seed, allow_unverified=True)  # the caller has checked it
        loaded.network.eval()
        plain = SamFamilyModel(loaded.card, loaded.network, loaded.preprocessing, loaded.device, encode_chunk=1)
        end.send(("ready", None))
        while True:
            end.send(("done", _done(plain, *end.recv())))
    except (EOFError, BrokenPipeError):
        pass
    except Exception as error:
        end.send(("error", " ".join(str(error).split()) or type(error).__name__))


def _done(plain: SamFamilyModel, kind: str, *request: Any) -> Any:
    """The answer to one request."""
    import torch

    from P2SAMSlicerLib.speed.hardware import synchronize

    size, place, encoder = plain.preprocessing.size, plain.device, plain.network.image_encoder
    if kind == "encode":
        images = torch.rand(request[0], 3, size, size, device=place)
        with torch.inference_mode():
            synchronize(place)
            started = time.perf_counter()
            encoder(images)
            synchronize(place)
        return time.perf_counter() - started
    if kind == "work":
        return _work(encoder, torch.rand(1, 3, size, size, device=place))
    if kind == "features":
        with torch.inference_mode():
            return encoder(torch.from_numpy(request[0]).to(place)).float().cpu().numpy()
    pairs, options = request
    return step_seconds(lambda: authors_loop(plain, pairs, options))


def _work(encoder: Any, image: Any) -> tuple[float, float]:
    """Operations and bytes of one image. Every operator's inputs and outputs count once: what no fusion saves."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import FlopCounterMode

    class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
        moved = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            answer = func(*args, **(kwargs or {}))
            if not func.is_view:
                leaves = [*tree_leaves((args, kwargs)), *tree_leaves(answer)]
                self.moved += sum(each.nbytes for each in leaves if isinstance(each, torch.Tensor))
            return answer

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(image)
    with torch.no_grad(), Traffic() as traffic:  # type: ignore[no-untyped-call]
        encoder(image)
    return float(counter.get_total_flops()), float(traffic.moved)
