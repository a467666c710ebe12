"""``videopoll demo``: the real library against a two local video APIs and two local messengers."""
