"""The algebra of ridge memories: sums, their solution, and its calibration."""
