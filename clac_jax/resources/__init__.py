"""Tables that the code reads."""
