"""How many images, or prompt sets, go through a network at once: as many as fit, and fewer once the memory ran out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from P2SAMSlicerLib.errors import out_of_memory

if TYPE_CHECKING:
    import torch

#: Share of an accelerator's free memory that a first batch may be reckoned to take; what is reckoned is no measurement.
USABLE_SHARE = 0.7


class BatchSize:
    """The number that goes through at once. Where the device has not enough memory for it, it is halved and stays so.

    :param most: where to begin, at least 1.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"a batch has at least one member, not {most}")
        self.most = most

    def run(self, total: int, work: Callable[[int, int], None]) -> None:
        """Call ``work(start, stop)`` for one batch after the other until ``total`` is reached.

        :raises RuntimeError: what ``work`` raised, where memory is not even enough for one, or where it was not memory.
        """
        start = 0
        while start < total:
            stop = min(total, start + self.most)
            try:
                work(start, stop)
            except (RuntimeError, MemoryError) as error:
                if stop - start == 1 or out_of_memory(error) is None:
                    raise
                fewer = (stop - start) // 2
            else:
                start = stop
                continue
            # Outside of the handler: the error holds the frames, and with them the tensors, of the batch that failed.
            self.most = fewer
            _give_back_unused()


def fitting(device: torch.device, bytes_each: int, most: int) -> int:
    """The first batch size to try on a device: what its free memory is reckoned to hold, from 1 to ``most``.

    :param bytes_each: what one member is reckoned to take while it goes through.
    """
    if device.type != "cuda":
        return most
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(most, int(free * USABLE_SHARE) // bytes_each))


def _give_back_unused() -> None:
    """What PyTorch keeps of an accelerator's memory for later goes back, because it may be in pieces that fit nothing."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
