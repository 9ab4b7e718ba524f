"""What an earlier run finished, so that ``--resume`` does not do it again, and does not replace what was made otherwise."""

from __future__ import annotations

from P2SAMSlicerLib.patient.visit_order import VisitOrder


def is_finished(order: VisitOrder) -> bool:
    """Whether a visit was carried as this order says, from the same files, and nothing of what was written has changed.

    The inputs' content is hashed, so this takes as long as reading them does; workers do it, side by side.
    """
    from P2SAMSlicerLib.patient.visit_folder import is_finished as same_key

    return order.out.is_dir() and same_key(order.out, order)


def holds_results(order: VisitOrder) -> bool:
    """Whether there are results of a visit, whatever they were made from; the record of a failure is none."""
    from P2SAMSlicerLib.patient.visit_folder import is_done

    return is_done(order.out)
