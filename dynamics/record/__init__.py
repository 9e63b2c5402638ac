"""What a step of training was: its rows with their losses, sums by time and gap, and the numbers that are kept."""

from dynamics.record.row_table import GAP_EDGES, QUANTITIES, T_EDGES, RowTable, add, means_by_gap, no_rows
from dynamics.record.step_record import GAP_BINS, SERIES, StepRecord, peak_memory_mb, summarise

__all__ = [
    "GAP_BINS",
    "GAP_EDGES",
    "QUANTITIES",
    "SERIES",
    "T_EDGES",
    "RowTable",
    "StepRecord",
    "add",
    "means_by_gap",
    "no_rows",
    "peak_memory_mb",
    "summarise",
]
