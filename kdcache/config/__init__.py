"""How a settings file becomes frozen settings. The settings themselves live beside what reads them: */settings.py.

base       Config, what every section has: frozen, unknown keys refused, ~ and $NAME expanded in paths
chosen     Chosen, a setting whose class is told by one of its keys
file       load_config: YAML and the command line's overrides -> settings, or their first fault in one line
yaml_text  YAML that refuses what a user cannot mean, such as a key given twice
paths      ~ and $NAME

Every class names its defaults in itself and nowhere else. Relative paths are relative to the working directory.
"""
