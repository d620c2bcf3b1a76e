"""The demo: a real, small Doubter on questions that it has never seen, and the files to go on with."""
