"""Features of images that were encoded before: encoding is most of the work, and a second run shows a model the same images."""

from __future__ import annotations

import hashlib
import mmap
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.models.disk_cache import DiskCache, model_key
from P2SAMSlicerLib.models.protocol import Decoded, ModelCard, PromptableModel, PromptSet

if TYPE_CHECKING:
    import torch

#: Room for the features; a slice of LiteMedSAM or SAM takes 4 MB.
USUAL_BYTES = 2**30
#: The same in a run that ends with a patient or before.
RUN_BYTES = 2**28


class EncodeCache:
    """A :class:`~P2SAMSlicerLib.models.protocol.PromptableModel` around another one that remembers what was encoded.

    Images are told apart by their content. Features lie in main memory; those that were not asked for the longest are forgotten
    first. Everything else is the wrapped model's.

    :param model: the wrapped model, which must give an image the same features in every batch, but for rounding; what is
        remembered never changes, so that a second run has exactly the first one's features.
    :param limit_bytes: most room for the features; an image whose features are larger, or for which the system has no room, is
        not remembered.
    :param disk: where features outlast the run, if they shall; random weights' never do.
    """

    def __init__(self, model: PromptableModel, limit_bytes: int = USUAL_BYTES, disk: DiskCache | None = None) -> None:
        self._model = model
        self._limit = limit_bytes
        self._model_key = None if disk is None else model_key(model)
        self._disk = None if self._model_key is None else disk
        self._rows: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._bytes = 0
        #: Images whose features were remembered, and images that the wrapped model encoded, so far.
        self.hits = 0
        self.encoded = 0

    @property
    def card(self) -> ModelCard:
        """What the wrapped model is."""
        return self._model.card

    @property
    def device(self) -> torch.device:
        """Where the wrapped model runs."""
        return self._model.device

    @property
    def held_bytes(self) -> int:
        """Room that the features take now."""
        return self._bytes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_model":  # not there yet while it is copied
            raise AttributeError(name)
        return getattr(self._model, name)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Features ``(n, C, h, w)`` on the model's device; only images that are not known are encoded, in their order."""
        import torch

        if not len(images) or any(image.shape != images[0].shape for image in images):
            return self._model.encode(images)  # which refuses them
        keys = [_key(image) for image in images]
        found = {key: self._rows[key] for key in keys if key in self._rows}
        found.update(self._from_disk([key for key in keys if key not in found]))
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        if new:
            encoded = self._model.encode(list(new.values()))
            self.encoded += len(new)
            self._remember(new, encoded)
            self._to_disk(new, encoded)
            if len(new) == len(keys):
                return encoded
            found.update(zip(new, encoded, strict=True))
        self.hits += len(keys) - len(new)
        for key in keys:
            if key in self._rows:
                self._rows.move_to_end(key)
        return torch.stack([found[key].to(self.device) for key in keys])

    def decode(
        self, features: torch.Tensor, prompts: Sequence[PromptSet], image_size: tuple[int, int], *, multimask: bool = False
    ) -> Decoded:
        """As the wrapped model."""
        return self._model.decode(features, prompts, image_size, multimask=multimask)

    def resized_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """As the wrapped model."""
        return self._model.resized_shape(image_size)

    def upscale(self, logits: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        """As the wrapped model."""
        return self._model.upscale(logits, image_size)

    def clear(self) -> None:
        """Forget all features; the counts stay."""
        self._rows.clear()
        self._bytes = 0

    def _from_disk(self, keys: Sequence[bytes]) -> dict[bytes, torch.Tensor]:
        """What the disk has of images that are not remembered; it is remembered from now on."""
        found: dict[bytes, torch.Tensor] = {}
        if self._disk is None or self._model_key is None:
            return found
        for key in keys:
            row = self._disk.get(self._model_key + key)
            if row is not None:
                found[key] = row
                self._remember({key: None}, row[None])
        return found

    def _to_disk(self, new: Mapping[bytes, object], encoded: torch.Tensor) -> None:
        if self._disk is None or self._model_key is None:
            return
        for key, features in zip(new, encoded, strict=True):
            self._disk.put(self._model_key + key, features.detach().cpu())

    def _remember(self, new: Mapping[bytes, object], encoded: torch.Tensor) -> None:
        for key, features in zip(new, encoded, strict=True):
            size = features.numel() * features.element_size()
            if size > self._limit:
                continue
            try:
                # A copy, because a row of a batch would keep the whole batch alive.
                row = _own_pages(features)
            except OSError:
                break  # no room: what is not remembered is encoded again
            self._rows[key] = row
            self._bytes += size
        while self._bytes > self._limit:
            _, oldest = self._rows.popitem(last=False)
            self._bytes -= oldest.numel() * oldest.element_size()


def _own_pages(features: torch.Tensor) -> torch.Tensor:
    """A copy in main memory on pages of its own, given back to the system with it.

    What is kept for long in the C library's heap lies between the activations of the next images, whose room can then not be
    used again: a run that remembered 0.25 GiB took 0.8 GiB more.

    :raises OSError: the system has no room.
    """
    import torch

    size = features.numel() * features.element_size()
    row = torch.frombuffer(mmap.mmap(-1, size), dtype=features.dtype, count=features.numel()).view(features.shape)
    return row.copy_(features.detach())


def _key(image: NDArray[np.uint8]) -> bytes:
    content = hashlib.blake2b(f"{image.dtype.str} {image.shape}".encode(), digest_size=32)
    content.update(np.ascontiguousarray(image).data)
    return content.digest()
