"""What was measured, and with what; ready for tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from P2SAMSlicerLib.speed.cold_start import ColdStartFindings
from P2SAMSlicerLib.speed.encoder import EncoderFindings
from P2SAMSlicerLib.speed.followup import FollowupFindings
from P2SAMSlicerLib.speed.growth import GrowthRow
from P2SAMSlicerLib.speed.prompt_edit import EditFindings

#: What may be measured, in its order.
PARTS = ("encoder", "followup", "edit", "cold", "growth")


@dataclass(frozen=True)
class SpeedFindings:
    """Everything that was measured; None or empty for what was not asked for.

    :param provenance: device, threads, model, versions; ready for JSON.
    """

    provenance: Mapping[str, Any] = field(default_factory=dict)
    encoders: tuple[EncoderFindings, ...] = ()
    followup: FollowupFindings | None = None
    edit: EditFindings | None = None
    cold: ColdStartFindings | None = None
    growth: tuple[GrowthRow, ...] = ()
