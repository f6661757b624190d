"""What is in a file or directory, one kind to a module; `neurocompile.inspection` finds out which."""
