"""PostgreSQL and RabbitMQ for the demo and the tests: given, from Docker Compose, or private.

In this order, for each of the two: a URL in the environment is used as it is and nothing of it is touched; else
Docker Compose, if an engine really answers; else a private instance of the installed server with its data in the
clone, on free ports; else the server is installed first.

A server that was started here is ended here. Each set of private servers has a folder with a `state.json`, written
before anything is started, and an owner: the process for whose sake it runs. Three nets catch what a crash leaves:
`run` stops its set on the way out, a watchdog stops it when the owner is gone, and the next `run` sweeps up what even
the watchdog did not live to stop. Processes are ended by their id, and only while their start time is the noted one.

Begin with `run.py`, then `private.py`. Standard library only; Python 3.9, because macOS has no newer one of its own.
"""
