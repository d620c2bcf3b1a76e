"""Train a Doubter: collect the base's own answers, then train a wrapper to decline the wrong ones."""
