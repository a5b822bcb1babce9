"""Files of other programs and our own, read as data and written completely or not at all."""
