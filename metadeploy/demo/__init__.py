"""The demo: a small trained Doubter on questions that it has never seen, and the files to try it yourself."""
