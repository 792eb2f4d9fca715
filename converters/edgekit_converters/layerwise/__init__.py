"""Where int8 leaves float: every layer of an int8 file against the float network that it was made from."""
