"""Train a Doubter: collect what the base does by itself, then teach a wrapper when to decline."""
