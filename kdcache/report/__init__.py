"""Report: what is in a cache, whether it is sound, and how students compare.

inspect    describe a cache from its manifest alone
verify     every byte against its digest, as the command prints it
convert    the other storage backend, with progress
evaluate   students and teacher in one table
"""
