"""The command line's verbs, one file each; data on stdout, narration on stderr."""
