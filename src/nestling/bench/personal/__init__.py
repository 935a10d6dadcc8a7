"""Suite `personal`: what one default does for a person who comes to a trained model, for streams
that change, and for a thousand people at once; and what it costs."""
