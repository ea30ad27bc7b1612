"""The first process of a pod that has several: starts them, passes on their output and signals, ends as they did.

A trainer pod with G GPUs has G ranks, and colocated rollouts beside them; a container has one command. ``main`` is the
loop, ``rules`` decides, ``children`` does what the system does.
"""
