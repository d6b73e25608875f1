"""Output folders that are ours, and who writes in them.

    folder.py   the mark .kdcache/owner.json: a folder is absent, empty or marked, else refused before a byte is written
    lock.py     who writes in a folder now: leases with host, process and heartbeat; others are refused
    model.py    a finished model takes its place, and what somebody else put there stays

Everything hidden lies under one name, FOLDER/.kdcache: the mark, the leases (locks/), and scratch files of any command
(`scratch`), which may be deleted whenever no command runs.
"""
