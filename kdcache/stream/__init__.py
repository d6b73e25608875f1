"""Cache -> micro-batches: which example comes when, and reading it in time.

settings   StreamConfig, the section `stream` of a settings file
order      the order of examples: lanes, the line of permuted blocks, the shuffle inside them. Pure functions, with the
           same global batches at every valid world size
mixture    Mixture: several caches with weights, checked to go together
mixing     which cache of a mixture gives which sample. Pure functions
course     when a run takes which of one cache's examples, over all epochs. Pure functions
rota       which step takes which examples of which lanes. Pure functions
by_length  examples of like length side by side, in a step and over the steps. Pure functions
parts      parts of blocks, and stretches of them whose examples may be sorted together. Pure functions
fitting    which sizes of batches go together, and which settings to change where they do not. Pure functions
memory     what is held of the blocks in use, in a given amount of memory. Pure functions
reading    threads read the blocks in the order of need, each once while it is held
loader     Loader: the steps of one rank, assembled ahead of use
micro_batches  MicroBatches: the micro-batches of a Loader one by one, an epoch at a time, as trainers take a DataLoader
"""
