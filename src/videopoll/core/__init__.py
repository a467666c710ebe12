"""The judgements: when to poll again, what an answer means, what becomes of a send. Pure; it reaches neither HTTP nor Redis."""
