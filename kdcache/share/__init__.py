"""Caches that are shared: pushed to a store or to the Hugging Face Hub, and fetched from there.

contents   the files of a finished cache, in the order in which a copy takes them, each with its digest
claim      what is at the place of a copy already, and whether the copy may be made there
copying    a copy from a folder or store to another one, file by file
push       `kdcache push` to a store or a folder
fetch      `kdcache fetch`
hub_push   `kdcache push` to a repository of the Hub
hub_tree   what a repository of the Hub holds, and what it may hold
card       the data set's card, README.md

A copy is made in the order in which a cache is written: header, shards, each before its commit record, table, and
cache.json last. So nobody takes half a copy for a cache, and one that was stopped goes on where it was.
"""
