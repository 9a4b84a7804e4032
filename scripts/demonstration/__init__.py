"""Shows the way of an event: arrival, retries, dead letter, replay, history.

`__main__.py` has the steps, `world.py` creates their environment and removes it.
"""
