"""What protects old knowledge: penalties, rehearsal, projection and routing."""

from nestling.retain.method import Retention, take_step

__all__ = ["Retention", "take_step"]
