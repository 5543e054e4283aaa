"""The verbs of the command line, one module a group: they read options, call the library, print the answer."""
