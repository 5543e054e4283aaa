"""The verbs of the command line, a module a group: they read options, call the library, print the answer."""
