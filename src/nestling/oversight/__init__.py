"""Governed change: a contract at work on a learner, its gates, guards, proposals and versions."""

from nestling.oversight.change_proposal import ChangeProposal
from nestling.oversight.governed import Governed, govern
from nestling.oversight.subjects.subject import Subject

__all__ = ["ChangeProposal", "Governed", "Subject", "govern"]
