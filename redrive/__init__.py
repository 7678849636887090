"""`make redrive`: dead letters go back to the input, exactly once. `letters` says which, and as what."""
