"""What memories promise, measured: suite `ridge` of one, suite `memory` of the default."""
