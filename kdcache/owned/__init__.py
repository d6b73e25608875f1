"""Output folders that are ours, and who writes in them.

    folder.py   the mark .kdcache/owner.json: a folder is absent, empty or marked, else refused before a byte is written
    lock.py     who writes in a folder now: each writer holds a lease, and others are refused
    door.py     the door in which one process at a time looks at the writers and registers
    lease.py    one lease: a file with host, process and heartbeat; when it counts as dead
    model.py    a finished model takes its place, and what somebody else put there stays

Everything hidden lies under one name, FOLDER/.kdcache: the mark, the leases (locks/), and scratch files of any command
(`scratch`), which may be deleted whenever no command runs.
"""
