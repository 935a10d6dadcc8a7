"""Who answers, and how what answers is exported."""
