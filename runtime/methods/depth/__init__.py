"""Tokens from part of the layers: drafters, and their approximate twins."""

from __future__ import annotations

from skipstone.runtime.methods.depth.at_depths import AtDepth, at_depths, depth_hidden, depth_logits, text_windows
from skipstone.runtime.methods.depth.beta_mixture import (
    GRID,
    LEAST_PAIRS,
    WIDE_GRID,
    Beta,
    BetaMixture,
    decayed,
    fit_beta,
    fit_mixture,
)
from skipstone.runtime.methods.depth.calibrate import (
    Calibration,
    ExitLevels,
    Level,
    calibrate,
    exit_levels,
    exits_note,
    lowest_threshold,
)
from skipstone.runtime.methods.depth.exit import decode_early
from skipstone.runtime.methods.depth.exits import (
    NO_EXIT_PAYS,
    TRY_AGAIN,
    Exit,
    ExitPolicy,
    ExitText,
    exits_for,
    open_policy,
)
from skipstone.runtime.methods.depth.free import (
    FIRST_THRESHOLD,
    MOST_UPDATES,
    UPDATE_EVERY,
    ExitRecord,
    FreeDrafter,
    FreeExit,
    open_free,
    records_of,
)
from skipstone.runtime.methods.depth.self_draft import LONGEST, MidpointStop, SelfDrafter, open_self
from skipstone.runtime.methods.depth.skip import can_skip, open_skip, require_skip_set
from skipstone.runtime.methods.depth.skip_set import (
    Reader,
    SkipSet,
    best_set,
    find_skip_set,
    skip_note,
    skipped_stages,
    spread,
)
from skipstone.runtime.methods.depth.skipdecode import SkipSchedule

__all__ = [
    "FIRST_THRESHOLD",
    "GRID",
    "LEAST_PAIRS",
    "LONGEST",
    "MOST_UPDATES",
    "NO_EXIT_PAYS",
    "TRY_AGAIN",
    "UPDATE_EVERY",
    "WIDE_GRID",
    "AtDepth",
    "Beta",
    "BetaMixture",
    "Calibration",
    "Exit",
    "ExitLevels",
    "ExitPolicy",
    "ExitRecord",
    "ExitText",
    "FreeDrafter",
    "FreeExit",
    "Level",
    "MidpointStop",
    "Reader",
    "SelfDrafter",
    "SkipSchedule",
    "SkipSet",
    "at_depths",
    "best_set",
    "calibrate",
    "can_skip",
    "decayed",
    "decode_early",
    "depth_hidden",
    "depth_logits",
    "exit_levels",
    "exits_for",
    "exits_note",
    "find_skip_set",
    "fit_beta",
    "fit_mixture",
    "lowest_threshold",
    "open_free",
    "open_policy",
    "open_self",
    "open_skip",
    "records_of",
    "require_skip_set",
    "skip_note",
    "skipped_stages",
    "spread",
    "text_windows",
]
