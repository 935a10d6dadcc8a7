"""Governed change: a contract at work on a learner, its gates, guards and proposals."""
