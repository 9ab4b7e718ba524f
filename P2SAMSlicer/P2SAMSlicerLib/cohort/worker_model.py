"""The model that a worker keeps: loaded with the first visit, and again only when an order wants another."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.patient.visit_order import VisitOrder

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel

#: The model of this process, by what it was asked for; at most one, as a large one fills a GPU.
_kept: dict[Hashable, Any] = {}


def model_key(order: VisitOrder) -> Hashable:
    """What decides which model an order needs."""
    return (order.model, order.checkpoint, order.allow_unverified, order.device, order.precision)


def kept_model(order: VisitOrder, load: Callable[[VisitOrder], Any]) -> Any:
    """The order's model; loaded if this process does not have it, and then the one that it had is given up.

    :param load: loads it.
    :raises ModelError: see :func:`load_order_model`.
    """
    key = model_key(order)
    if key not in _kept:
        _kept.clear()
        _kept[key] = load(order)
    return _kept[key]


def load_order_model(order: VisitOrder) -> PromptableModel:
    """Load the model that an order names, and take as many processor threads as it says.

    :raises ModelError: see :func:`~P2SAMSlicerLib.models.load_model`.
    """
    from P2SAMSlicerLib.patient import run
    from P2SAMSlicerLib.threads import use_threads

    use_threads(order.threads)
    return run.load_order_model(order)
