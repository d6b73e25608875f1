"""How a settings file becomes frozen settings. The settings themselves stand beside what reads them: */settings.py.

base       Config, what every section has: it is frozen, refuses unknown keys, and expands ~ and $NAME in paths
chosen     Chosen: a setting whose class is told by one of its keys, such as `record: {kind: sampled}`
file       load_config: a YAML file and the command line's overrides -> settings, or their first fault in one line
yaml_text  YAML that refuses what a user cannot mean, such as a key given twice
paths      expands ~ and $NAME

Every class names its own defaults, and nothing else does. Relative paths are relative to the working directory. The
docstring of a class of settings has an entry for each setting: configs/SETTINGS.md is printed from them.
"""
