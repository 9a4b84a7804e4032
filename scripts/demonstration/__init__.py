"""Shows an event on its way: arrival, retries, dead letter, replay, history.

`__main__.py` tells the story, `world.py` makes what it happens in and removes it.
"""
