"""PostgreSQL and RabbitMQ for the demo and the tests: given, from Docker Compose, or private.

In this order, for each of the two: a URL in the environment is used as it is and nothing of it is touched; else
Docker Compose, if an engine really answers; else a private instance of the installed server, with its data in the
clone, on free ports; else the server is installed first.

What is started here is held by a keeper (`keeper.py`), a process in a session of its own that reads its standard
input. The end of that input ends the servers and removes their folder: the kernel closes the pipe when the process at
its other end dies, however it dies. If the keeper itself was killed, the next one clears away what it left.

Begin with `__main__.py`, then `keeper.py`. Standard library only; Python 3.9, because macOS has no newer one of its
own.
"""
