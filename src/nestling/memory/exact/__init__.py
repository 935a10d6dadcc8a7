"""The algebra of ridge memories: sums and their clock, their solution, and its calibration."""
