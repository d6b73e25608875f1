"""Cache -> micro-batches: which example comes when, and reading it in time.

settings   StreamConfig, the section `stream` of a settings file
order      the order of examples: lanes, the permutation of shards, the shuffle inside windows. Pure functions, with the
           same global batches at every valid world size
fitting    which sizes of batches go together, and which settings to change where they do not. Pure functions
blocks     how many steps are read as one block within a given amount of memory. Pure functions
loader     Loader: threads read whole shards ahead of use, within the memory that they are given
micro_batches  MicroBatches: the micro-batches of a Loader one by one, an epoch at a time, as trainers take a DataLoader
"""
