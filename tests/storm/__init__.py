"""Storms in virtual time: whole fleets, their Redis, their API and their messengers in one process, from one seed."""
