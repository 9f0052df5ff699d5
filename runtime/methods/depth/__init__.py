"""Tokens from part of the layers: drafters, and their approximate twins."""

from __future__ import annotations

from skipstone.runtime.methods.depth.at_depths import AtDepth, at_depths, depth_hidden, depth_logits, text_windows
from skipstone.runtime.methods.depth.beta_mixture import Beta, BetaMixture, GRID, LEAST_PAIRS, WIDE_GRID, decayed, fit_beta, fit_mixture
from skipstone.runtime.methods.depth.calibrate import calibrate, exit_levels, lowest_threshold
from skipstone.runtime.methods.depth.exit import ExitPolicy, Gate, GatedExit, decode_early, exits_for, open_policy, require_calibration
from skipstone.runtime.methods.depth.exits import Counts, Exit, ExitText, NO_EXIT_PAYS, PRIOR_TOKENS, TRY_AGAIN, best_exit
from skipstone.runtime.methods.depth.free import ExitRecord, FIRST_THRESHOLD, FreeDrafter, LearnedExit, MOST_UPDATES, UPDATE_EVERY, open_free, records_of
from skipstone.runtime.methods.depth.self_draft import COUNTS_MEMORY, DraftingExit, LONGEST, MidpointStop, SelfDrafter, open_self
from skipstone.runtime.methods.depth.skip import SkipSet, can_skip, open_skip, require_skip_set, skip_note, skipped_stages
from skipstone.runtime.methods.depth.skip_set import Reader, best_set, find_skip_set, spread
from skipstone.runtime.methods.depth.skipdecode import SkipSchedule
from skipstone.runtime.methods.depth.thresholds import ExitLevels, ExitThresholds, Level, exits_note

__all__ = ['AtDepth', 'Beta', 'BetaMixture', 'COUNTS_MEMORY', 'Counts', 'DraftingExit', 'Exit', 'ExitLevels', 'ExitPolicy', 'ExitRecord', 'ExitText', 'ExitThresholds', 'FIRST_THRESHOLD', 'FreeDrafter', 'GRID', 'Gate', 'GatedExit', 'LEAST_PAIRS', 'LONGEST', 'LearnedExit', 'Level', 'MOST_UPDATES', 'MidpointStop', 'NO_EXIT_PAYS', 'PRIOR_TOKENS', 'Reader', 'SelfDrafter', 'SkipSchedule', 'SkipSet', 'TRY_AGAIN', 'UPDATE_EVERY', 'WIDE_GRID', 'at_depths', 'best_exit', 'best_set', 'calibrate', 'can_skip', 'decayed', 'decode_early', 'depth_hidden', 'depth_logits', 'exit_levels', 'exits_for', 'exits_note', 'find_skip_set', 'fit_beta', 'fit_mixture', 'lowest_threshold', 'open_free', 'open_policy', 'open_self', 'open_skip', 'records_of', 'require_calibration', 'require_skip_set', 'skip_note', 'skipped_stages', 'spread', 'text_windows']
