"""One answer to each puzzle, in the file of its sheet. They are read as text; nothing imports them."""
