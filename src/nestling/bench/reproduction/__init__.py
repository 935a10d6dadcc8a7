"""Published figures reproduced with the settings of their papers."""
