"""Events of any form as rows of numbers, in columns that come into being as they appear."""
