"""``videopoll demo``: the real library against a local video API and local messengers."""
