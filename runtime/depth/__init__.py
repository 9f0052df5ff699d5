"""Tokens from part of the layers: how sure an exit is, when it may be believed, and what that saves."""

from skipstone.runtime.depth.calibrate import Calibration, ExitLevels, Level
from skipstone.runtime.depth.calibration_file import calibration_path, find_calibration, save_calibration
from skipstone.runtime.depth.pairs import calibrate
from skipstone.runtime.depth.policy import Exit, ExitPolicy, open_policy

__all__ = [
    "Calibration",
    "Exit",
    "ExitLevels",
    "ExitPolicy",
    "Level",
    "calibrate",
    "calibration_path",
    "find_calibration",
    "open_policy",
    "save_calibration",
]
