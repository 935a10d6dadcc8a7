"""Continuum memory systems (NL, section 7.1): MLP blocks that write at different speeds."""

from nestling.models.continuum.chunk_reference import write_chunks_slowly
from nestling.models.continuum.chunk_windows import Window, WriteClock, plan_windows
from nestling.models.continuum.chunk_writes import Written, write_chunks
from nestling.models.continuum.cms import CMS, ContinuumLevel
from nestling.models.continuum.cms_state import CMSState, load_cms_state
from nestling.models.continuum.continuum_block import ContinuumBlock
from nestling.models.continuum.stacking import (
    StackedLevels,
    StackedState,
    load_stacked_state,
    stack_levels,
)

__all__ = [
    "CMS",
    "CMSState",
    "ContinuumBlock",
    "ContinuumLevel",
    "StackedLevels",
    "StackedState",
    "Window",
    "WriteClock",
    "Written",
    "load_cms_state",
    "load_stacked_state",
    "plan_windows",
    "stack_levels",
    "write_chunks",
    "write_chunks_slowly",
]
