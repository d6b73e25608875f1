"""Reports: what a cache will cost, what is in one, whether it is sound, and how students compare.

plan       `kdcache plan`: figures with their formulas, constants with where they come from
simulate   the figures of `kdcache plan --simulate`
inspect    `kdcache inspect`: describes a cache from its manifest, and its records at a temperature
verify     `kdcache verify`: checks every byte against its digest
verified   which shards a verify found sound, for one that was stopped
repair     `kdcache verify --repair`: makes damaged files what they were, or says why it cannot
teacher_check  `kdcache verify --teacher`: runs the teacher again and compares
comparison     the sums of that comparison
dump_settings  what a cache was dumped with, where somebody knows it
rewrite    `kdcache convert`, `merge`, `filter` and `ensemble`: new caches of finished ones
evaluate   `kdcache eval`: students and teacher in one table. The scores themselves are computed in `kdcache.students`
           (scoring), `kdcache.losses` (metrics) and `kdcache.tasks` (scores of a task and their columns)
"""
