"""What the figures of ``summary.json`` and ``slices.csv`` mean; the summary holds these texts, and the help prints some.

Keys are the names that the files use.
"""

from __future__ import annotations

#: Figures of a segment.
SEGMENT = {
    "outcome": "found, flagged, too small, no lesion found, or registration only (margins and organs, for which no model is"
    " asked); nothing is ever called right",
    "reasons": "what speaks against the contour, or why there is none",
    "review_priority": "0 to 1, larger is to be looked at first: mean of the fifth of the slices with the largest priority,"
    " at least 0.5 if not simply found (registration only: 0.5, or 1 if a reason speaks"
    " against it); it sorts, and never says that a contour is right",
    "prior_volume_ml": "volume of the segment on the prior CT, voxels times voxel volume",
    "volume_ml": "volume of the contour on the follow-up, voxels times voxel volume; null without a contour",
    "volume_change_percent": "100 (volume_ml / prior_volume_ml - 1): relative to the prior's volume",
    "centroid_shift_mm": "LPS vector (to the patient's left, back, head) from the registered prior contour's centroid to the"
    " contour's, so what the registration moved is not in it",
    "lost_tissue_share": "share of the volume that is lesion on both visits whose HU became less like the prior lesion's, less"
    " the share of changed HU in the surroundings; of several lesions the worst; null for CBCT, small lesions, or no contour",
    "removals": "what clean-up took away, filled or opened",
}

#: Columns of ``slices.csv``; the summary's slices hold the same.
SLICE = {
    "followup": "name of the follow-up's files",
    "segment": "name of the segment on the prior",
    "lesion": "number of the separate lesion within the segment, from 1; a slice that shows several has a row for each",
    "index": "slice along the follow-up's slice axis as it is stored, from 0",
    "position_mm": "LPS coordinate of the slice's centre along the patient axis nearest to the slice normal, in mm",
    "chosen_candidate": "how the chosen candidate was made; empty where the lesion was judged absent",
    "distance": "Wasserstein distance of the chosen candidate's encoder features to the prior lesion's, exact or on a sample"
    " of cells, squared Euclidean cost; smaller is more alike",
    "score": "what the candidate was chosen by (paper mode: the distance); smaller is better, comparable within a lesion only",
    "n_positive": "positive points of the chosen candidate's prompt",
    "n_negative": "negative points of the chosen candidate's prompt",
    "predicted_iou": "the model's own estimate of the chosen candidate's overlap with the truth; empty for the registered and"
    " the expected contour, which no model made",
    "review_priority": "0 to 1, larger is to be looked at first: mean of the slice's signals, the model's own doubt (told by"
    " models that were trained with masks) with half of the weight",
}

#: Further figures of a slice, in the summary alone.
SLICE_DETAILS = {
    "signals": "0 to 1 each, larger is more doubtful; they took no part in the choice",
    "candidates": "everything that was considered on the slice",
}

#: Figures of the registration: those of the body in the follow-up's entry, those near a segment in the segment's.
REGISTRATION = {
    "kind": "deformable, rigid, none or file",
    "starts": "name and correlation of every start of the rigid search, best first",
    "rotation_deg": "angle of the rigid part",
    "body_correlation": "correlation of HU in the body after registration, -1 to 1",
    "shift_mm": "length of the rigid part's displacement at the lesion's centre; of several lesions the longest",
    "local_correlation": "correlation of HU within 25 mm of the registered contour, itself left out; null out of view;"
    " of several lesions the lowest",
    "deformation_mm": "longest displacement beyond the rigid part, near a lesion of the segment;"
    " null for a transform from a file, whose rigid part is not known",
    "folded_share": "share of voxels near the lesion whose Jacobian determinant is not positive;"
    " of several lesions the largest",
    "reasons": "why the registration is not trusted; empty if no check objected",
}

#: All of them, as the summary holds them.
DEFINITIONS = {"segment": SEGMENT, "slice": {**SLICE, **SLICE_DETAILS}, "registration": REGISTRATION}
