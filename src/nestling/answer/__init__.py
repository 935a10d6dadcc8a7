"""Answers: the read-out, the pre-trained model as given beside it, and export."""
