"""Schedulers: units handed out one by one to workers that a cluster starts, places and starts again.

units      which units wait, who holds which, and which of them kill their workers
events     what a worker tells
given      a worker's side of the handing: it asks for units and tells what became of them
worker     one process of a dump, anywhere in the cluster
cluster    a Ray cluster: found or refused, and how many workers it can place
ray        the one who hands out: workers as Ray actors, progress, errors

A scheduler decides who makes a unit and when. What is made of it, and how it is committed, is the one path of every
dump (kdcache.dump.run); so a cache has the same bytes whoever handed out its units.
"""
